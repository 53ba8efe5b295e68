using TorchSharp;
Console.WriteLine(torch.randn(4, 4).matmul(torch.randn(4, 4)).sum().item<float>());
