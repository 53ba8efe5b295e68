// AuxCore's kernels on ONNX Runtime's memory, without a copy in either direction:  dotnet run examples/onnx-runtime.cs
//
// A teacher is a moving average of a student's weights. Its weights are an array that EmaUpdate writes and ONNX Runtime reads as an input;
// the predictions that come out are averaged over time where they lie (temporal ensembling, Laine and Aila 2017).
#:project ../src/Kernels/AuxCore.Kernels.csproj
#:package Microsoft.ML.OnnxRuntime

using System.Text;
using AuxCore.Kernels;
using Microsoft.ML.OnnxRuntime;

const int Samples = 4, Features = 3, Classes = 2, Steps = 200;
var random = new Random(1);
var student = new float[Features * Classes];
var teacher = new float[Features * Classes];
var ensemble = new float[Samples * Classes];
var inputs = Enumerable.Range(0, Samples * Features).Select(i => MathF.Sin(i)).ToArray();

using var session = new InferenceSession(Softmax.OfMatMul(Samples, Features, Classes));
using var options = new RunOptions();
using var x = OrtValue.CreateTensorValueFromMemory(inputs, [Samples, Features]);
using var w = OrtValue.CreateTensorValueFromMemory(teacher, [Features, Classes]); // ONNX Runtime reads the array itself
var inputNames = new[] { "x", "w" };

for (var step = 0; step < Steps; step++)
{
    for (var i = 0; i < student.Length; i++) // training, as far as this example goes: the weights jitter around their optimum
        student[i] = i - 2 + (float)random.NextDouble();
    EmaUpdate.Run(teacher, student, decay: 0.95);

    using var outputs = session.Run(options, inputNames, [x, w], session.OutputNames);
    EmaUpdate.Run(ensemble, outputs[0].GetTensorDataAsSpan<float>(), decay: 0.9); // the span is ONNX Runtime's own memory
}

var weights = string.Join(" ", teacher.Select(value => $"{value:0.00}"));
Console.WriteLine($"Teacher's weights: {weights} (the optimum is -1.5 -0.5 0.5 1.5 2.5 3.5)");
for (var i = 0; i < Samples; i++)
    Console.WriteLine($"Sample {i}: probability of class 1, averaged over time: {ensemble[i * Classes + 1]:0.000}");

/// <summary>Writes the ONNX model y = Softmax(x · w), of which onnx.proto numbers the fields, so that the example needs no file.</summary>
internal static class Softmax
{
    private const int Float = 1; // TensorProto.DataType

    public static byte[] OfMatMul(int samples, int features, int classes) => Message(
        Number(1, 8), // ir_version
        Field(8, Message(Text(1, ""), Number(2, 13))), // opset_import
        Field(7, Message(
            Field(1, Message(Text(1, "x"), Text(1, "w"), Text(2, "logits"), Text(4, "MatMul"))),
            Field(1, Message(Text(1, "logits"), Text(2, "y"), Text(4, "Softmax"))),
            Text(2, "teacher"),
            Field(11, Tensor("x", samples, features)),
            Field(11, Tensor("w", features, classes)),
            Field(12, Tensor("y", samples, classes)))));

    private static byte[] Tensor(string name, params int[] shape) => Message(
        Text(1, name),
        Field(2, Field(1, Message(Number(1, Float), Field(2, Message([.. shape.Select(size => Field(1, Number(1, size)))]))))));

    // Protocol buffers: a key of number and kind, then a number, or a length and so many bytes. All numbers here fit seven bits, lengths
    // two times seven.
    private static byte[] Message(params byte[][] fields) => [.. fields.SelectMany(bytes => bytes)];

    private static byte[] Number(int field, int value) => [(byte)(field << 3), (byte)value];

    private static byte[] Text(int field, string value) => Field(field, Encoding.UTF8.GetBytes(value));

    private static byte[] Field(int field, byte[] content) =>
        content.Length < 128
            ? [(byte)(field << 3 | 2), (byte)content.Length, .. content]
            : [(byte)(field << 3 | 2), (byte)(content.Length & 127 | 128), (byte)(content.Length >> 7), .. content];
}
