using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="KvPredictWrite"/>.</summary>
internal static class KvPredictWriteBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new KvPredictWriteCase(
            "predict-write-1b-from-450m-n1024",
            "KV Prediction, 1,024 tokens: OpenELM-450M's keys and values become those of 1.1B's 28 layers", withProjection: true),
        () => new KvPredictWriteCase(
            "predict-write-epilogue-n1024", "the same from finished projections on: bias, norm, rotation and storing",
            withProjection: false),
    ];
}

/// <summary>
/// The projections of KV Prediction with random weights in bfloat16, and what follows them: bias, norm of keys, rotation, and 28 bfloat16
/// caches. Ours goes by blocks of rows: a product, then the op on it, for the layers that share one of the small model. Errors are elements
/// of the caches that differ from the reference by more than a rounding.
/// </summary>
internal sealed class KvPredictWriteCase(string name, string description, bool withProjection) : KvCase(name, description)
{
    private const int Tokens = 1024, HeadDim = 64, Rows = 1024;
    private const double Epsilon = 1e-6;

    // Heads of keys and values, layer by layer, of OpenELM-1.1B and OpenELM-450M.
    private static readonly int[] BaseHeads =
        [4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 8, 8, 8, 8];

    private static readonly int[] SmallHeads = [3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 6, 6, 6, 6];

    private readonly RotaryOptions _rotary = new();
    private readonly List<Group> _groups = [];
    private Tensor _cosines = null!, _sines = null!, _positions = null!;

    public override string DType => "bf16";

    public override long Bytes => 2L * Tokens * HeadDim * sizeof(ushort)
        * (withProjection ? SmallHeads.Sum() + BaseHeads.Sum() : 2 * BaseHeads.Sum());

    public override CaseArm Ours => Arm(withProjection ? "linear by blocks of rows, KvPredictWrite.Run" : "KvPredictWrite.Run", () =>
    {
        if (withProjection)
            RunByBlocks(Backend);
        else
            RunFinished(Backend);
    });

    public override IReadOnlyList<CaseArm> BestCandidates => withProjection
        ? [Arm("linear of shared layers, in bfloat16", () => Together(narrow: true)),
            Arm("linear of shared layers, then in float32", () => Together(narrow: false)),
            Arm("linear, layer by layer", () => LayerByLayer(published: false))]
        : [Arm("of shared layers, in bfloat16", () => Together(narrow: true)),
            Arm("of shared layers, in float32", () => Together(narrow: false))];

    public override CaseArm? Published => withProjection ? Arm("as corenet's code", () => LayerByLayer(published: true)) : null;

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Ours.Run();
        var ours = _groups.SelectMany(group => group.Caches).Select(cache => cache.clone()).ToList();
        RunFinished(AuxBackend.Reference);
        double differ = 0;
        foreach ((Tensor mine, Tensor reference) in ours.Zip(_groups.SelectMany(group => group.Caches)))
        {
            // Products of other shapes round otherwise, by one of bfloat16's 2^-8 in a few elements.
            Tensor wide = reference.to_type(torch.float32), error = (mine.to_type(torch.float32) - wide).abs_();
            differ += error.gt(wide.abs() / 64 + 0.05).sum().item<long>();
        }

        return differ == 0 ? 0 : throw new VerificationException($"{differ} elements differ from the reference", differ);
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(KvPredictWrite.IsSupported(backend, out string reason), nameof(KvPredictWrite), backend, reason);

    protected override void Allocate()
    {
        _groups.Clear();
        int layer = 0;
        for (int small = 0; small < SmallHeads.Length; small++)
        {
            int layers = BaseHeads.Length / SmallHeads.Length + (small < BaseHeads.Length % SmallHeads.Length ? 1 : 0);
            _groups.Add(new Group(this, SmallHeads[small], BaseHeads[layer..(layer + layers)]));
            layer += layers;
        }

        _positions = Keep(torch.arange(Tokens, torch.int32));
        using Tensor positions = torch.arange(Tokens, torch.float64).view(Tokens, 1);
        using Tensor exponents = torch.arange(0, HeadDim, 2, torch.float64).div(-HeadDim), bases = torch.full(1, 10_000.0, torch.float64);
        using Tensor angles = positions * bases.pow(exponents);
        _cosines = Keep(angles.cos().to_type(torch.float32).view(Tokens, 1, HeadDim / 2));
        _sines = Keep(angles.sin().to_type(torch.float32).view(Tokens, 1, HeadDim / 2));
    }

    // The products of a block of rows are still in the cache when the op reads them.
    private void RunByBlocks(AuxBackend backend)
    {
        for (int row = 0; row < Tokens; row += Rows)
        {
            foreach (Group group in _groups)
            {
                using var scope = torch.NewDisposeScope();
                Tensor keys = functional.linear(group.Keys.narrow(0, row, Rows), group.KeyWeights);
                Tensor values = functional.linear(group.Values.narrow(0, row, Rows), group.ValueWeights);
                Write(group, View(keys), View(values), row, Rows, backend);
            }
        }
    }

    private void RunFinished(AuxBackend backend)
    {
        foreach (Group group in _groups)
            Write(group, View(group.KeyProducts), View(group.ValueProducts), 0, Tokens, backend);
    }

    private unsafe void Write(Group group, in TensorView keys, in TensorView values, int row, int rows, AuxBackend backend)
    {
        var layers = new KvPredictLayer[group.Heads.Length];
        int column = 0;
        for (int i = 0; i < layers.Length; i++)
        {
            layers[i] = group.Layers[i] with
            {
                Keys = Columns(keys, column, group.Heads[i]),
                Values = Columns(values, column, group.Heads[i]),
            };
            column += group.Heads[i] * HeadDim;
        }

        TensorView slots = View(_positions);
        KvPredictWrite.Run(
            layers, new() { Slots = TensorView.FromPointer((int*)slots.Address + row, AuxCore.Interop.DType.Int32, [rows]) }, _rotary,
            Epsilon, backend);

        TensorView Columns(in TensorView products, int first, int heads) => TensorView.FromPointer(
            (ushort*)products.Address + first, products.DType, [rows, heads, HeadDim], [products.Shape[1], HeadDim, 1]);
    }

    private void Together(bool narrow)
    {
        foreach (Group group in _groups)
        {
            using var scope = torch.NewDisposeScope();
            int heads = group.Heads.Sum();
            Tensor keys = withProjection
                ? functional.linear(group.Keys, group.KeyWeights, group.NarrowKeyBias)
                : group.KeyProducts + group.NarrowKeyBias;
            Tensor values = withProjection
                ? functional.linear(group.Values, group.ValueWeights, group.NarrowValueBias)
                : group.ValueProducts + group.NarrowValueBias;
            Tensor x = keys.view(Tokens, heads, HeadDim);
            if (!narrow)
                x = x.to_type(torch.float32);
            Tensor scale = x.square().mean([2], keepdim: true).add_(Epsilon).rsqrt_();
            x = x.mul_(scale).mul_(narrow ? group.NarrowNorms : group.Norms);
            int column = 0;
            for (int i = 0; i < group.Heads.Length; i++)
            {
                Tensor own = x.narrow(1, column, group.Heads[i]);
                Tensor first = own.narrow(2, 0, HeadDim / 2), second = own.narrow(2, HeadDim / 2, HeadDim / 2);
                Tensor cache = group.TheirKeys[i].select(0, 0).transpose(0, 1);
                cache.narrow(2, 0, HeadDim / 2).copy_((first * _cosines).sub_(second * _sines));
                cache.narrow(2, HeadDim / 2, HeadDim / 2).copy_((second * _cosines).add_(first * _sines));
                group.TheirValues[i].select(0, 0).transpose(0, 1)
                    .copy_(values.view(Tokens, heads, HeadDim).narrow(1, column, group.Heads[i]));
                column += group.Heads[i];
            }
        }
    }

    private void LayerByLayer(bool published)
    {
        foreach (Group group in _groups)
        {
            int row = 0;
            for (int i = 0; i < group.Heads.Length; row += group.Heads[i] * HeadDim, i++)
            {
                using var scope = torch.NewDisposeScope();
                int width = group.Heads[i] * HeadDim;
                Tensor keys = functional.linear(
                    group.Keys, group.KeyWeights.narrow(0, row, width), group.NarrowKeyBias.narrow(0, row, width));
                Tensor values = functional.linear(
                    group.Values, group.ValueWeights.narrow(0, row, width), group.NarrowValueBias.narrow(0, row, width));
                Tensor x = keys.view(1, Tokens, group.Heads[i], HeadDim).transpose(1, 2).to_type(torch.float32);
                Tensor v = values.view(1, Tokens, group.Heads[i], HeadDim).transpose(1, 2);
                x = x * torch.rsqrt(x.pow(2).mean([3], keepdim: true) + Epsilon) * group.Norms[row / HeadDim];
                if (published)
                    x = x.to_type(torch.bfloat16).contiguous().to_type(torch.float32); // the cache of normed keys, rotated at each read
                Tensor first = x.narrow(3, 0, HeadDim / 2), second = x.narrow(3, HeadDim / 2, HeadDim / 2);
                Tensor cosines = _cosines.view(1, 1, Tokens, HeadDim / 2), sines = _sines.view(1, 1, Tokens, HeadDim / 2);
                Tensor turned = torch.cat([first * cosines - second * sines, second * cosines + first * sines], 3);
                group.TheirKeys[i].copy_(turned);
                group.TheirValues[i].copy_(published ? v.contiguous() : v);
            }
        }
    }

    /// <summary>A layer of the small model, and those of the large one that are predicted from it: their weights are one matrix.</summary>
    private sealed class Group
    {
        public Group(KvPredictWriteCase owner, int smallHeads, int[] heads)
        {
            Heads = heads;
            int columns = heads.Sum() * HeadDim, depth = smallHeads * HeadDim;
            double deviation = 1 / Math.Sqrt(depth);
            Keys = Narrow(torch.randn(Tokens, depth));
            Values = Narrow(torch.randn(Tokens, depth));
            KeyWeights = Narrow(torch.randn(columns, depth).mul_(deviation));
            ValueWeights = Narrow(torch.randn(columns, depth).mul_(deviation));
            NarrowKeyBias = Narrow(torch.randn(columns));
            NarrowValueBias = Narrow(torch.randn(columns));
            NarrowNorms = Narrow(torch.rand(heads.Length, HeadDim).repeat_interleave(owner.Keep(torch.tensor(heads)), 0));
            Norms = owner.Keep(NarrowNorms.to_type(torch.float32));
            KeyProducts = owner.Keep(functional.linear(Keys, KeyWeights));
            ValueProducts = owner.Keep(functional.linear(Values, ValueWeights));
            Tensor keyBias = owner.Keep(NarrowKeyBias.to_type(torch.float32));
            Tensor valueBias = owner.Keep(NarrowValueBias.to_type(torch.float32));
            TheirKeys = Array.ConvertAll(heads, Cache);
            TheirValues = Array.ConvertAll(heads, Cache);
            Tensor[] keys = Array.ConvertAll(heads, Cache), values = Array.ConvertAll(heads, Cache);
            Caches = [.. keys, .. values];
            Layers = new KvPredictLayer[heads.Length];
            for (int i = 0, head = 0; i < heads.Length; head += heads[i], i++)
            {
                Layers[i] = new()
                {
                    KeyBias = View(owner.Keep(keyBias.narrow(0, head * HeadDim, heads[i] * HeadDim))),
                    ValueBias = View(owner.Keep(valueBias.narrow(0, head * HeadDim, heads[i] * HeadDim))),
                    KeyNorm = View(owner.Keep(Norms[head])),
                    Cache = new()
                    {
                        Keys = View(keys[i]), KeyFormat = KvFormat.BF16, Values = View(values[i]), ValueFormat = KvFormat.BF16,
                    },
                };
            }

            Tensor Narrow(Tensor wide)
            {
                using (wide)
                    return owner.Keep(wide.to_type(torch.bfloat16));
            }

            Tensor Cache(int count) => owner.Keep(torch.zeros(1, count, Tokens, HeadDim, torch.bfloat16));
        }

        public int[] Heads { get; }

        public Tensor Keys { get; }

        public Tensor Values { get; }

        public Tensor KeyWeights { get; }

        public Tensor ValueWeights { get; }

        public Tensor NarrowKeyBias { get; }

        public Tensor NarrowValueBias { get; }

        public Tensor Norms { get; }

        public Tensor NarrowNorms { get; }

        public Tensor KeyProducts { get; }

        public Tensor ValueProducts { get; }

        public Tensor[] TheirKeys { get; }

        public Tensor[] TheirValues { get; }

        public Tensor[] Caches { get; }

        public KvPredictLayer[] Layers { get; }
    }
}
