namespace AuxCore.Tests;
public class Smoke { [Fact] public void Loads() => Assert.Equal(3f, TorchSharp.torch.ones(3).sum().item<float>()); }
