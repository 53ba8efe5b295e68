using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KeyRerotate
{
    // A thread gets at least so many elements: some 20 us of work, which waking it must be worth.
    private const long MinimumElementsPerThread = 64 * 1024;

    /// <summary>Cosines and sines once for all layers and heads, then head by head.</summary>
    private static unsafe void RunCpu(RerotateWork work)
    {
        var strips = work.Layers.Sum(layer => layer.Strips);
        if (strips == 0 || work.Tokens == 0)
            return;
        using var scratch = new Scratch();
        var pairs = work.Rotated / 2;
        var count = (long)work.Tokens * pairs;
        var turns = new Turns(scratch.Take<float>(count), scratch.Take<float>(count), scratch.Take<bool>(work.Tokens));
        var most = ThreadTeam.Count(strips * work.Tokens * work.Rotated, MinimumElementsPerThread);
        ThreadTeam.Run(most, part => Fill(work, turns, Part(work.Tokens, part, most), Part(work.Tokens, part + 1, most)));
        ThreadTeam.Run(most, part =>
        {
            foreach (var layer in work.Layers)
            {
                var loop = Loop.For(CpuSimd.Width, layer.DType, work.Layout);
                loop.Run(work, layer, turns, layer.Strips * part / most, layer.Strips * (part + 1) / most);
            }
        });
    }

    private static int Part(int count, int part, int parts) => (int)((long)count * part / parts);

    /// <summary>[tokens, pairs] of cosines and sines, and which tokens stay where they are.</summary>
    private readonly unsafe struct Turns(float* cosines, float* sines, bool* stay)
    {
        public float* Cosines => cosines;

        public float* Sines => sines;

        public bool* Stay => stay;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Fill(RerotateWork work, Turns turns, int from, int to)
    {
        var pairs = work.Rotated / 2;
        for (var token = from; token < to; token++)
        {
            turns.Stay[token] = work.Stays(token);
            for (var pair = 0; pair < pairs && !turns.Stay[token]; pair++)
            {
                var (sine, cosine) = Math.SinCos(work.Angle(token, pair));
                var at = (long)token * pairs + pair;
                (turns.Cosines[at], turns.Sines[at]) = ((float)cosine, (float)sine);
            }
        }
    }

    /// <summary>The loop for one vector width, dtype and layout.</summary>
    private readonly unsafe struct Loop(delegate*<RerotateWork, RerotateWork.Layer, Turns, long, long, void> run)
    {
        private readonly delegate*<RerotateWork, RerotateWork.Layer, Turns, long, long, void> _run = run;

        // Neighbours would have to change places within a vector; pairs are turned one by one.
        public static Loop For(SimdWidth width, DType type, RotaryLayout layout) => (layout == RotaryLayout.Pairs ? 0 : width) switch
        {
            SimdWidth.Bits512 => For<FloatVector16>(type),
            SimdWidth.Bits256 => For<FloatVector8>(type),
            SimdWidth.Bits128 => For<FloatVector4>(type),
            _ => For<FloatVector1>(type),
        };

        public void Run(RerotateWork work, in RerotateWork.Layer layer, Turns turns, long from, long to) =>
            _run(work, layer, turns, from, to);

        private static Loop For<TVector>(DType type) where TVector : struct, IFloatVector<TVector> => type switch
        {
            DType.Float32 => new(&Strips<TVector, float>),
            DType.BFloat16 => new(&Strips<TVector, BFloat16>),
            _ => new(&Strips<TVector, Half>),
        };
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Strips<TVector, T>(RerotateWork work, RerotateWork.Layer layer, Turns turns, long from, long to)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var pairs = work.Rotated / 2;
        for (var strip = from; strip < to; strip++)
        {
            var keys = (T*)layer.Address + layer.StripAt(strip);
            for (var token = 0; token < work.Tokens; token++)
            {
                if (turns.Stay[token])
                    continue;
                var at = (long)token * pairs;
                Turn<TVector, T>(keys + token * layer.TokenStep, turns.Cosines + at, turns.Sines + at, pairs, work.Layout);
            }
        }
    }

    /// <summary>Turns one key by the cosines and sines of its pairs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void Turn<TVector, T>(T* key, float* cosines, float* sines, int pairs, RotaryLayout layout)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var pair = 0;
        if (layout == RotaryLayout.Halves)
        {
            for (; pair <= pairs - TVector.Count; pair += TVector.Count)
                Turn<TVector, T>(key + pair, key + pairs + pair, cosines + pair, sines + pair);
        }

        for (; pair < pairs; pair++)
        {
            var (first, second) = layout == RotaryLayout.Halves ? (pair, pairs + pair) : (2 * pair, 2 * pair + 1);
            Turn<FloatVector1, T>(key + first, key + second, cosines + pair, sines + pair);
        }
    }

    /// <summary>Turns pairs of elements.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static unsafe void Turn<TVector, T>(T* first, T* second, float* cosines, float* sines)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var (a, b, cosine, sine) = (TVector.Load(first), TVector.Load(second), TVector.Load(cosines), TVector.Load(sines));
        (a * cosine - b * sine).StoreAs(first);
        (b * cosine + a * sine).StoreAs(second);
    }
}
