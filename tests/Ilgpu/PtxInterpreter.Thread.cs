using System.Runtime.InteropServices;

namespace AuxCore.Tests.Ilgpu;

internal sealed partial class PtxInterpreter
{
    /// <summary>One thread of the device. A register is 64 bits, of which an instruction uses as many as its type has.</summary>
    private sealed class Thread(
        PtxInterpreter kernel, byte[] parameters, byte[] shared, int grid, int block, int blockIndex, int threadIndex)
    {
        private readonly ulong[] _registers = new ulong[kernel._registers.Count];
        private int _at;
        private long _steps;

        /// <summary>Runs on; false where the thread came to its end.</summary>
        public bool RunToBarrier()
        {
            while (_at < kernel._code.Count)
            {
                Assert.True(_steps++ < MostSteps, "the kernel does not end");
                var instruction = kernel._code[_at++];
                if (instruction.Guard >= 0 && (_registers[instruction.Guard] != 0) == instruction.GuardIsInverted)
                    continue;
                kernel.Executed[instruction.Name] = kernel.Executed.GetValueOrDefault(instruction.Name) + 1;
                switch (instruction.Parts[0])
                {
                    case "ret":
                        return false;
                    case "bar":
                        return true;
                    case "bra":
                        _at = kernel._labels[instruction.Operands[0].Text];
                        break;
                    default:
                        Execute(instruction);
                        break;
                }
            }

            return false;
        }

        private void Execute(PtxInstruction instruction)
        {
            switch (instruction.Parts[0])
            {
                case "ld" when instruction.Parts[1] is "param" or "global" or "shared":
                    Load(instruction);
                    break;
                case "st" when instruction.Parts[1] is "global" or "shared":
                    Store(instruction);
                    break;
                case "red" when instruction.Parts[2] == "shared":
                    Reduce(instruction);
                    break;
                default:
                    _registers[instruction.Operands[0].Register] = Compute(instruction);
                    break;
            }
        }

        private void Load(PtxInstruction instruction)
        {
            var (target, source, size) = (instruction.Operands[0], instruction.Operands[1], Size(instruction.Type));
            int[] registers = target.Vector ?? [target.Register];
            Span<byte> bytes = stackalloc byte[size * registers.Length];
            if (instruction.Parts[1] == "param")
                parameters.AsSpan(source.Offset, bytes.Length).CopyTo(bytes);
            else if (instruction.Parts[1] == "shared")
                Shared(source, bytes.Length, instruction).CopyTo(bytes);
            else
                kernel._memory.Read(Address(source, bytes.Length, instruction), bytes);
            for (var i = 0; i < registers.Length; i++)
            {
                var bits = 0ul;
                bytes.Slice(i * size, size).CopyTo(MemoryMarshal.AsBytes(new Span<ulong>(ref bits)));
                _registers[registers[i]] = bits;
            }
        }

        private void Store(PtxInstruction instruction)
        {
            var (target, source, size) = (instruction.Operands[0], instruction.Operands[1], Size(instruction.Type));
            ulong[] values = source.Vector is { } vector ? [.. vector.Select(register => _registers[register])] : [Value(instruction, 1)];
            Span<byte> bytes = stackalloc byte[size * values.Length];
            for (var i = 0; i < values.Length; i++)
                MemoryMarshal.AsBytes(values.AsSpan(i, 1))[..size].CopyTo(bytes[(i * size)..]);
            if (instruction.Parts[1] == "shared")
                bytes.CopyTo(Shared(target, bytes.Length, instruction));
            else
                kernel._memory.Write(Address(target, bytes.Length, instruction), bytes);
        }

        // No result, no order: an atomic operation on shared memory.
        private void Reduce(PtxInstruction instruction)
        {
            var bytes = Shared(instruction.Operands[0], Size(instruction.Type), instruction);
            var old = bytes.Length == 4 ? MemoryMarshal.Read<uint>(bytes) : MemoryMarshal.Read<ulong>(bytes);
            var value = instruction.Parts[1] switch
            {
                "add" => old + Value(instruction, 1),
                "max" => Math.Max(old, Value(instruction, 1)),
                _ => throw new NotSupportedException(instruction.Text),
            };
            MemoryMarshal.AsBytes(new ReadOnlySpan<ulong>(in value))[..bytes.Length].CopyTo(bytes);
        }

        private Span<byte> Shared(PtxOperand operand, int bytes, PtxInstruction instruction)
        {
            var address = Address(operand, bytes, instruction);
            Assert.True(address >= 0 && address + bytes <= shared.Length, $"outside of shared memory: {instruction.Text}");
            return shared.AsSpan((int)address, bytes);
        }

        private nint Address(PtxOperand operand, int bytes, PtxInstruction instruction)
        {
            var address = (nint)_registers[operand.Register] + operand.Offset;
            Assert.True(address % bytes == 0, $"0x{address:x} is no multiple of {bytes}: {instruction.Text}");
            return address;
        }

        private ulong Compute(PtxInstruction instruction)
        {
            var (a, b, c) = (Value(instruction, 1), Value(instruction, 2), Value(instruction, 3));
            return instruction.Name switch
            {
                "mov.b16" or "mov.b32" or "mov.b64" or "mov.f32" or "mov.f64" or "mov.pred" or "cvta.to.global.u64" => a,
                "add.s32" => (uint)((int)a + (int)b),
                "sub.s32" => (uint)((int)a - (int)b),
                "min.s32" => (uint)Math.Min((int)a, (int)b),
                "max.s32" => (uint)Math.Max((int)a, (int)b),
                "div.s32" => (uint)((int)a / (int)b),
                "add.s64" or "add.u64" => a + b,
                "sub.s64" => a - b,
                "div.s64" => (ulong)((long)a / (long)b),
                "div.u64" => a / b,
                "min.s64" => (ulong)Math.Min((long)a, (long)b),
                "mul.lo.s32" => (uint)((int)a * (int)b),
                "mul.lo.s64" => a * b,
                "mul.wide.u32" => (ulong)(uint)a * (uint)b,
                "mad.lo.u64" => a * b + c,
                "rem.s32" => (uint)((int)a % (int)b),
                "and.b32" => (uint)a & (uint)b,
                "or.b32" => (uint)a | (uint)b,
                "not.b32" => ~(uint)a,
                "and.b64" or "and.pred" => a & b,
                "or.pred" => a | b,
                "shl.b32" => (uint)a << (int)b,
                "shl.b64" => a << (int)b,
                "shr.u64" => a >> (int)b,
                "shr.u32" => (uint)a >> (int)b,
                "shr.s32" => (uint)((int)a >> (int)b),
                "shr.s64" => (ulong)((long)a >> (int)b),
                "cvt.s32.s64" or "cvt.u32.u64" or "cvt.u64.u32" => (uint)a,
                "cvt.s64.s32" => (ulong)(int)a,
                "cvt.s32.u16" or "cvt.u16.u32" => (ushort)a,
                "cvt.s32.u8" or "cvt.u8.u32" => (byte)a,
                "cvt.s16.s32" => (uint)(short)a, // sign extended, as a register wider than its type is
                "cvt.s8.s32" => (uint)(sbyte)a,
                "cvt.rn.f32.s8" => Bits((float)(sbyte)a),
                "cvt.rn.f32.s32" => Bits((float)(int)a),
                "cvt.rn.f64.s32" => Bits((double)(int)a),
                "cvt.rn.f64.u64" => Bits((double)a),
                "cvt.rzi.s32.f32" => (uint)(int)Float(a),
                "cvt.rzi.s32.f64" => (uint)(int)Double(a),
                "cvt.rzi.u32.f64" => (uint)Double(a),
                "cvt.rzi.u64.f64" => (ulong)Double(a),
                "cvt.f64.f32" => Bits((double)Float(a)),
                "cvt.rn.f32.f64" => Bits((float)Double(a)),
                "cvt.f32.f16" => Bits((float)BitConverter.UInt16BitsToHalf((ushort)a)),
                "add.f32" => Bits(Float(a) + Float(b)),
                "sub.f32" => Bits(Float(a) - Float(b)),
                "div.rn.f32" => Bits(Float(a) / Float(b)),
                "rcp.rn.f32" => Bits(1 / Float(a)),
                "mul.f32" or "mul.rn.f32" => Bits(Float(a) * Float(b)),
                "add.f64" => Bits(Double(a) + Double(b)),
                "sub.f64" => Bits(Double(a) - Double(b)),
                "mul.f64" or "mul.rn.f64" => Bits(Double(a) * Double(b)),
                "div.rn.f64" => Bits(Double(a) / Double(b)),
                "neg.s32" => (uint)-(int)a,
                "neg.f64" => Bits(-Double(a)),
                "testp.notanumber.f64" => double.IsNaN(Double(a)) ? 1ul : 0,
                "testp.notanumber.f32" => float.IsNaN(Float(a)) ? 1ul : 0,
                "not.pred" => a == 0 ? 1ul : 0,
                "fma.rn.f32" => Bits(MathF.FusedMultiplyAdd(Float(a), Float(b), Float(c))),
                "selp.b32" or "selp.b64" or "selp.f32" => c != 0 ? a : b,
                _ when instruction.Parts[0] == "setp" => Compare(instruction, a, b) ? 1ul : 0,
                _ => throw new NotSupportedException($"an instruction that the interpreter does not know: {instruction.Text}"),
            };
        }

        private static bool Compare(PtxInstruction instruction, ulong a, ulong b)
        {
            var comparison = instruction.Parts[1];
            if (instruction.Type is "f32" or "f64")
            {
                var (x, y) = instruction.Type == "f32" ? (Float(a), Float(b)) : (Double(a), Double(b));
                if (double.IsNaN(x) || double.IsNaN(y))
                    return comparison.EndsWith('u'); // unordered ones are then true
                return Holds(comparison[..2], x.CompareTo(y), instruction);
            }

            var order = instruction.Type switch
            {
                "s32" => ((int)a).CompareTo((int)b),
                "u32" => ((uint)a).CompareTo((uint)b),
                "s64" => ((long)a).CompareTo((long)b),
                "u64" => a.CompareTo(b),
                _ => throw new NotSupportedException(instruction.Text),
            };
            return Holds(comparison, order, instruction);
        }

        private static bool Holds(string comparison, int order, PtxInstruction instruction) => comparison switch
        {
            "eq" => order == 0,
            "ne" => order != 0,
            "lt" or "lo" => order < 0,
            "le" or "ls" => order <= 0,
            "gt" or "hi" => order > 0,
            "ge" or "hs" => order >= 0,
            _ => throw new NotSupportedException(instruction.Text),
        };

        private ulong Value(PtxInstruction instruction, int index)
        {
            if (index >= instruction.Operands.Length)
                return 0;
            var operand = instruction.Operands[index];
            return operand.Register >= 0 ? _registers[operand.Register] : operand.Text switch
            {
                "%tid.x" => (uint)threadIndex,
                "%ntid.x" => (uint)block,
                "%ctaid.x" => (uint)blockIndex,
                "%nctaid.x" => (uint)grid,
                ['%', ..] => throw new NotSupportedException(instruction.Text),
                _ => operand.Bits,
            };
        }

        private static int Size(string type) => int.Parse(type[1..], System.Globalization.CultureInfo.InvariantCulture) / 8;

        private static float Float(ulong bits) => BitConverter.UInt32BitsToSingle((uint)bits);

        private static double Double(ulong bits) => BitConverter.UInt64BitsToDouble(bits);

        private static ulong Bits(double value) => BitConverter.DoubleToUInt64Bits(value);

        private static ulong Bits(float value) => BitConverter.SingleToUInt32Bits(value);
    }
}
