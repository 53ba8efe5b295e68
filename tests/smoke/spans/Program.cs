using AuxCore.Interop;
using AuxCore.Kernels;

// One average of a span.
float[] average = [0, 8, -4];
EmaUpdate.Run(average, [1f, 0f, -4f], decay: 0.75);
Expect("EmaUpdate.Run", average, [0.25f, 6, -4]);

// Two averages of two arrays, pinned once.
float[] first = [2, 4], second = [8];
float[] slowFirst = [0, 0], slowSecond = [0], fastFirst = [0, 0], fastSecond = [0];
using (var group = EmaGroup.Pin<float>([first, second], [slowFirst, slowSecond], [fastFirst, fastSecond]))
{
    group.Update([0.75, 0.5]);
    first[0] = 10;
    group.Update([0.75, 0.5]);
}

Expect("slow average", [.. slowFirst, .. slowSecond], [2.875f, 1.75f, 3.5f]);
Expect("fast average", [.. fastFirst, .. fastSecond], [5.5f, 3, 6]);

// Spans need no framework.
var anywhere = new EnumerationOptions { RecurseSubdirectories = true, MatchCasing = MatchCasing.CaseInsensitive };
var torch = Directory.GetFiles(AppContext.BaseDirectory, "*torch*", anywhere);
if (torch.Length > 0)
    throw new InvalidOperationException($"AuxCore.Kernels brought {string.Join(", ", torch)}");

Console.WriteLine(AuxRuntime.Describe());

static void Expect(string what, float[] actual, float[] expected)
{
    if (!actual.SequenceEqual(expected))
        throw new InvalidOperationException($"{what}: [{string.Join(", ", actual)}], expected [{string.Join(", ", expected)}]");
}
