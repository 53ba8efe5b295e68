using System.Globalization;
using System.Text.RegularExpressions;

namespace AuxCore.Tests.Ilgpu;

/// <summary>
/// Runs PTX on the host, one thread of the device after the other: so what ILGPU compiled is tested, not only what was written. It knows
/// the instructions that our kernels have come to use; any other is an error that names it. The threads of a block meet at barriers, which
/// they reach one after the other, forwards and backwards by turns, so that what lacks a barrier shows; there are no shuffles. Every access
/// must lie in memory that is the kernel's, and on a multiple of its size. Shared memory begins with a pattern.
/// </summary>
internal sealed partial class PtxInterpreter
{
    private const long MostSteps = 10_000_000; // of one thread: a loop that does not end is a failed test

    private readonly Dictionary<string, (int Offset, int Size)> _parameters = [];
    private readonly Dictionary<string, int> _registers = [];
    private readonly Dictionary<string, int> _labels = [];
    private readonly Dictionary<string, int> _shared = [];
    private readonly List<PtxInstruction> _code = [];
    private readonly IPtxMemory _memory;

    /// <param name="ptx">A module.</param>
    /// <param name="entry">The kernel's name in it.</param>
    /// <param name="memory">What global addresses are of.</param>
    public PtxInterpreter(string ptx, string entry, IPtxMemory memory)
    {
        _memory = memory;
        var start = ptx.IndexOf($".entry {entry}(", StringComparison.Ordinal);
        Assert.True(start >= 0, $"the module has no entry {entry}");
        var open = ptx.IndexOf('{', start);
        foreach (Match parameter in ParameterPattern().Matches(ptx[start..open]))
            AddParameter(parameter);
        // Local scopes (a call's) would need a stack of names; the kernels have none.
        var body = ptx[(open + 1)..ptx.IndexOf("\n}", open, StringComparison.Ordinal)];
        foreach (Match variable in SharedPattern().Matches(body))
            AddShared(variable);
        foreach (var line in body.Split('\n'))
            AddLine(line.Trim());
    }

    /// <summary>Bytes of all parameters.</summary>
    public int ParameterBytes { get; private set; }

    /// <summary>Bytes of a block's shared memory.</summary>
    public int SharedBytes { get; private set; }

    /// <summary>How often each instruction ran, by its full name.</summary>
    public Dictionary<string, long> Executed { get; } = [];

    /// <summary>Runs all threads.</summary>
    /// <param name="grid">Blocks.</param>
    /// <param name="block">Threads of each.</param>
    /// <param name="parameters">As the signature lays them out.</param>
    public void Run(int grid, int block, ReadOnlySpan<byte> parameters)
    {
        Assert.Equal(ParameterBytes, parameters.Length);
        var copy = parameters.ToArray();
        for (var b = 0; b < grid; b++)
        {
            var shared = new byte[SharedBytes];
            shared.AsSpan().Fill(0xA5);
            Thread[] threads = [.. Enumerable.Range(0, block).Select(t => new Thread(this, copy, shared, grid, block, b, t))];
            for (var running = block; running > 0;)
            {
                running = threads.Count(thread => thread.RunToBarrier());
                Assert.True(running == 0 || running == block, $"a barrier that {running} threads of {block} reach");
                Array.Reverse(threads);
            }
        }
    }

    private void AddShared(Match variable)
    {
        var alignment = int.Parse(variable.Groups["align"].Value, CultureInfo.InvariantCulture);
        var offset = (SharedBytes + alignment - 1) / alignment * alignment;
        _shared[variable.Groups["name"].Value] = offset;
        SharedBytes = offset + int.Parse(variable.Groups["bytes"].Value, CultureInfo.InvariantCulture);
    }

    private void AddParameter(Match parameter)
    {
        var size = parameter.Groups["bytes"] is { Success: true } bytes ? int.Parse(bytes.Value, CultureInfo.InvariantCulture)
            : int.Parse(parameter.Groups["bits"].Value, CultureInfo.InvariantCulture) / 8;
        var alignment = parameter.Groups["align"] is { Success: true } align ? int.Parse(align.Value, CultureInfo.InvariantCulture) : size;
        var offset = (ParameterBytes + alignment - 1) / alignment * alignment;
        _parameters[parameter.Groups["name"].Value] = (offset, size);
        ParameterBytes = offset + size;
    }

    private void AddLine(string line)
    {
        if (line.Length == 0 || line[0] is '.' or '/')
            return;
        if (line[^1] == ':')
        {
            _labels[line[..^1]] = _code.Count;
            return;
        }

        var match = InstructionPattern().Match(line);
        Assert.True(match.Success, $"no PTX that this interpreter reads: {line}");
        var guard = match.Groups["guard"] is { Success: true } name ? Register(name.Value) : -1;
        var operands = OperandPattern().Matches(match.Groups["operands"].Value).Select(operand => Operand(operand.Value)).ToArray();
        _code.Add(new PtxInstruction(line, match.Groups["name"].Value, guard, match.Groups["not"].Success, operands));
    }

    private PtxOperand Operand(string text)
    {
        if (text[0] == '{')
            return new PtxOperand(text, Vector: [.. text[1..^1].Split(',').Select(name => Register(name.Trim()))]);
        if (text[0] == '[')
        {
            var plus = text.IndexOf('+', StringComparison.Ordinal);
            var offset = plus < 0 ? 0 : int.Parse(text[(plus + 1)..^1], CultureInfo.InvariantCulture);
            var name = plus < 0 ? text[1..^1] : text[1..plus];
            return name[0] == '%' ? new PtxOperand(text, Register: Register(name), Offset: offset)
                : new PtxOperand(text, Offset: _parameters[name].Offset + offset);
        }

        if (text[0] == '%' && !text.Contains('.', StringComparison.Ordinal))
            return new PtxOperand(text, Register: Register(text));
        if (text.StartsWith("0f", StringComparison.OrdinalIgnoreCase))
            return new PtxOperand(text, Bits: uint.Parse(text[2..], NumberStyles.HexNumber, CultureInfo.InvariantCulture));
        if (text.StartsWith("0d", StringComparison.OrdinalIgnoreCase))
            return new PtxOperand(text, Bits: ulong.Parse(text[2..], NumberStyles.HexNumber, CultureInfo.InvariantCulture));
        if (_shared.TryGetValue(text, out var place))
            return new PtxOperand(text, Bits: (ulong)place);
        if (long.TryParse(text, CultureInfo.InvariantCulture, out var number))
            return new PtxOperand(text, Bits: (ulong)number);
        return ulong.TryParse(text, CultureInfo.InvariantCulture, out var unsigned) // −1 of 64 bits, as ILGPU writes it
            ? new PtxOperand(text, Bits: unsigned)
            : new PtxOperand(text);
    }

    private int Register(string name)
    {
        if (!_registers.TryGetValue(name, out var index))
            _registers[name] = index = _registers.Count;
        return index;
    }

    [GeneratedRegex(@"\.param\s+(\.align\s+(?<align>\d+)\s+)?\.[bsuf](?<bits>\d+)\s+(?<name>\w+)(\[(?<bytes>\d+)\])?")]
    private static partial Regex ParameterPattern();

    [GeneratedRegex(@"\.shared\s+\.align\s+(?<align>\d+)\s+\.b8\s+(?<name>\w+)\[(?<bytes>\d+)\]")]
    private static partial Regex SharedPattern();

    [GeneratedRegex(@"^(@(?<not>!)?(?<guard>%p\d+)\s+)?(?<name>[a-z][\w.]*)\s*(?<operands>.*);$")]
    private static partial Regex InstructionPattern();

    [GeneratedRegex(@"\{[^}]*\}|\[[^]]*\]|[^,\s]+")]
    private static partial Regex OperandPattern();
}

/// <param name="Text">The line.</param>
/// <param name="Name">With all suffixes.</param>
/// <param name="Guard">The register that decides whether it runs; -1 for always.</param>
/// <param name="GuardIsInverted">Whether it runs where that is false.</param>
/// <param name="Operands">The result first.</param>
internal sealed record PtxInstruction(string Text, string Name, int Guard, bool GuardIsInverted, PtxOperand[] Operands)
{
    public string[] Parts { get; } = Name.Split('.');

    /// <summary>The last suffix: of most instructions the type.</summary>
    public string Type => Parts[^1];
}

/// <param name="Text">As written.</param>
/// <param name="Register">-1 where there is none.</param>
/// <param name="Offset">Of an address: bytes from the register, or from the first parameter.</param>
/// <param name="Bits">Of a constant.</param>
/// <param name="Vector">The registers of a vector.</param>
internal sealed record PtxOperand(string Text, int Register = -1, int Offset = 0, ulong Bits = 0, int[]? Vector = null);
