using System.Globalization;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>State in safetensors: <c>frames</c>, <c>actions</c>, <c>rewards</c>, <c>done</c>, and the metadata below.</content>
public sealed partial class FrameReplay
{
    private static readonly StateFile Checks = new(nameof(FrameReplay), "replay");

    private const string FormatKey = "auxcore.format";
    private const string Format = "frame-replay/1";
    private const string SizesKey = "auxcore.sizes";       // capacity, games, cells
    private const string CountersKey = "auxcore.counters"; // steps added, numbers drawn

    /// <summary>Writes the frames and what belongs to them to a safetensors file, atomically.</summary>
    /// <param name="path">The file to create or replace.</param>
    /// <exception cref="IOException">The file cannot be written; an existing one is as it was.</exception>
    public void Save(string path)
    {
        using var scope = torch.NewDisposeScope();
        Tensor[] tensors = [torch.tensor(_frames), torch.tensor(_actions), torch.tensor(_rewards), torch.tensor(_done)];
        SafetensorsFile.Write(
            path, Names.Zip(tensors, KeyValuePair.Create),
            new Dictionary<string, string>
            {
                [FormatKey] = Format,
                [SizesKey] = SizesText,
                [CountersKey] = string.Create(CultureInfo.InvariantCulture, $"{_added} {_draws}"),
            });
    }

    /// <summary>Reads what <see cref="Save"/> wrote. Draws then go on as they would have.</summary>
    /// <param name="path">A file of a replay of the same sizes.</param>
    /// <exception cref="StateFileException">
    /// The file is torn or damaged, of another format or other sizes; the message names the key. Everything is as it was.
    /// </exception>
    /// <exception cref="IOException">The file does not exist or cannot be read.</exception>
    public void Load(string path)
    {
        using var file = SafetensorsFile.Open(path);
        Checks.Require(file, path, FormatKey, Format);
        Checks.Require(file, path, SizesKey, SizesText);
        if (Checks.Metadata(file, path, CountersKey).Split(' ') is not [var steps, var drawn]
            || !long.TryParse(steps, NumberStyles.None, CultureInfo.InvariantCulture, out var added)
            || !ulong.TryParse(drawn, NumberStyles.None, CultureInfo.InvariantCulture, out var draws))
        {
            throw Checks.Foreign(path, CountersKey, "is not two counts");
        }

        using var scope = torch.NewDisposeScope();
        Tensor[] like =
        [
            torch.empty(_frames.Length, torch.uint8), torch.empty(Capacity, torch.int32), torch.empty(Capacity),
            torch.empty(Capacity, torch.@bool),
        ];
        Checks.RequireTensors(file, path, [.. Names.Zip(like)]);
        Tensor[] read = [.. Names.Select(file.Read)]; // all, before anything changes: the disk may fail half way
        Copy(read[0], _frames);
        Copy(read[1], _actions);
        Copy(read[2], _rewards);
        Copy(read[3], _done);
        (_added, _draws) = (added, draws);

        static void Copy<T>(Tensor from, T[] to) where T : unmanaged => from.data<T>().CopyTo(to);
    }

    private static readonly string[] Names = ["frames", "actions", "rewards", "done"];

    private string SizesText => string.Create(CultureInfo.InvariantCulture, $"{Capacity} {Games} {Cells}");
}
