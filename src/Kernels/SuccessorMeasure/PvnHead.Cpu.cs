using System.Buffers;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class PvnHead
{
    // A thread gets at least this many multiply-adds: some 20 us of work.
    private const long MinimumProductsPerThread = 1024 * 1024;

    /// <summary>
    /// Products by group, the TD epilogue over all rows, products by group. Predictions and ∂loss/∂Q are in grouped order, so what a group
    /// needs lies together.
    /// </summary>
    private static unsafe void RunCpu(in PvnHeadWork work)
    {
        switch (CpuSimd.Width)
        {
            case SimdWidth.Bits512:
                RunCpu<FloatVector16>(work);
                break;
            case SimdWidth.Bits256:
                RunCpu<FloatVector8>(work);
                break;
            case SimdWidth.Bits128:
                RunCpu<FloatVector4>(work);
                break;
            default:
                RunCpu<FloatVector1>(work);
                break;
        }
    }

    private static unsafe void RunCpu<TVector>(PvnHeadWork work) where TVector : struct, IFloatVector<TVector>
    {
        var groups = ActionGroups.Of(new(work.Actions, (int)work.Rows), work.Shape.Actions);
        var elements = checked((int)(work.Rows * work.Shape.Tasks));
        var threads = ThreadTeam.Count((long)elements * work.Shape.Features, MinimumProductsPerThread);
        var buffers = new PvnBuffers(elements, threads,
            checked(Math.Max(work.Shape.Tasks, (int)work.Rows) * HeadProducts<TVector>.PanelColumns));
        try
        {
            fixed (float* prediction = buffers.Prediction, next = buffers.Next)
            fixed (int* order = groups.Order, offsets = groups.Offsets)
            {
                // In place: the epilogue reads a row of predictions before it writes that row's gradient.
                var td = work.Td.With(prediction, next, prediction, order);
                var pass = new PvnPass(work, prediction, next, order, offsets);
                Each(threads, pass, buffers, &Project<TVector>);
                IndicatorTd.RunChecked(td, AuxBackend.Cpu);
                Each(threads, pass, buffers, &Gradients<TVector>);
            }
        }
        finally
        {
            buffers.Return();
        }
    }

    private static unsafe void Each(
        int threads, PvnPass pass, PvnBuffers buffers, delegate*<in PvnPass, int, int, float[], void> stage) =>
        ThreadTeam.Run(threads, part => stage(pass, part, threads, buffers.Panels[part]));

    /// <summary>Predictions by group and next values: a thread takes every so-many-th tile of rows.</summary>
    private static unsafe void Project<TVector>(in PvnPass pass, int part, int parts, float[] panel)
        where TVector : struct, IFloatVector<TVector>
    {
        var (work, tasks, features) = (pass.Work, pass.Work.Shape.Tasks, pass.Work.Shape.Features);
        for (var a = 0; a < work.Shape.Actions; a++)
        {
            var (from, count) = Share(pass.Offsets[a], pass.Offsets[a + 1], part, parts);
            HeadProducts<TVector>.Project(
                work.Features, pass.Order + from, count, work.Head(0, a), (long)work.Shape.Actions * features, tasks, features,
                pass.Prediction + (long)from * tasks);
        }

        var (first, rows) = Share(0, (int)work.Rows, part, parts);
        HeadProducts<TVector>.Project(
            work.NextFeatures + (long)first * features, null, rows, work.TargetMean, features, tasks, features,
            pass.Next + (long)first * tasks);
    }

    /// <summary>Both gradients, panel by panel of features.</summary>
    private static unsafe void Gradients<TVector>(in PvnPass pass, int part, int parts, float[] panel)
        where TVector : struct, IFloatVector<TVector>
    {
        var (work, shape) = (pass.Work, pass.Work.Shape);
        var width = HeadProducts<TVector>.PanelColumns;
        var panels = (shape.Features + width - 1) / width;
        fixed (float* packed = panel)
        {
            for (var a = 0; a < shape.Actions; a++)
            {
                var (from, count) = (pass.Offsets[a], pass.Offsets[a + 1] - pass.Offsets[a]);
                var error = pass.Prediction + (long)from * shape.Tasks;
                for (var at = part; at < panels; at += parts)
                {
                    var f = at * width;
                    var columns = Math.Min(width, shape.Features - f);
                    var headStep = (long)shape.Actions * shape.Features;
                    if (work.FeatureGradient != null && count > 0)
                    {
                        HeadProducts<TVector>.Pack(work.Head(0, a) + f, headStep, null, shape.Tasks, columns, packed);
                        HeadProducts<TVector>.Multiply(
                            error, shape.Tasks, 1, count, packed, shape.Tasks, columns,
                            work.FeatureGradient + f, pass.Order + from, shape.Features);
                    }

                    if (work.WeightGradient != null)
                    {
                        HeadProducts<TVector>.Pack(work.Features + f, shape.Features, pass.Order + from, count, columns, packed);
                        HeadProducts<TVector>.Multiply(
                            error, 1, shape.Tasks, shape.Tasks, packed, count, columns,
                            work.WeightGradient + (long)a * shape.Features + f, null, headStep);
                    }
                }
            }
        }
    }

    // Whole tiles of four rows, so that threads share none.
    private static (int From, int Count) Share(int from, int to, int part, int parts)
    {
        var tiles = (to - from + 3) / 4;
        var begin = from + (int)((long)tiles * part / parts) * 4;
        var end = Math.Min(to, from + (int)((long)tiles * (part + 1) / parts) * 4);
        return (begin, Math.Max(0, end - begin));
    }

    private static unsafe void MeanCpu(float* weights, PvnShape shape, float* mean)
    {
        switch (CpuSimd.Width)
        {
            case SimdWidth.Bits512:
                Mean<FloatVector16>(weights, shape, mean);
                break;
            case SimdWidth.Bits256:
                Mean<FloatVector8>(weights, shape, mean);
                break;
            case SimdWidth.Bits128:
                Mean<FloatVector4>(weights, shape, mean);
                break;
            default:
                Mean<FloatVector1>(weights, shape, mean);
                break;
        }
    }

    private static unsafe void Mean<TVector>(float* weights, PvnShape shape, float* mean) where TVector : struct, IFloatVector<TVector>
    {
        for (var t = 0; t < shape.Tasks; t++)
        {
            var heads = weights + (long)t * shape.Actions * shape.Features;
            var to = mean + (long)t * shape.Features;
            var f = 0;
            for (; f <= shape.Features - TVector.Count; f += TVector.Count)
                MeanAt<TVector>(heads + f, shape, to + f);
            for (; f < shape.Features; f++)
                MeanAt<FloatVector1>(heads + f, shape, to + f);
        }
    }

    private static unsafe void MeanAt<TVector>(float* head, PvnShape shape, float* mean) where TVector : struct, IFloatVector<TVector>
    {
        var (sum, one) = (TVector.Load(head), TVector.Broadcast(1));
        for (var a = 1; a < shape.Actions; a++)
            sum = TVector.MultiplyAdd(TVector.Load(head + (long)a * shape.Features), one, sum);
        TVector.MultiplyAdd(sum, TVector.Broadcast(1f / shape.Actions), TVector.Broadcast(-0f)).Store(mean);
    }

    /// <summary>What the stages of one call share.</summary>
    private readonly unsafe struct PvnPass(PvnHeadWork work, float* prediction, float* next, int* order, int* offsets)
    {
        public PvnHeadWork Work => work;

        /// <summary>[B, T] in grouped order: predictions, and after the epilogue ∂loss/∂Q.</summary>
        public float* Prediction => prediction;

        /// <summary>[B, T] in the batch's order.</summary>
        public float* Next => next;

        public int* Order => order;

        public int* Offsets => offsets;
    }

    /// <summary>Memory of one call, from the shared pool.</summary>
    private readonly struct PvnBuffers
    {
        public PvnBuffers(int elements, int threads, int panelElements)
        {
            Prediction = ArrayPool<float>.Shared.Rent(elements);
            Next = ArrayPool<float>.Shared.Rent(elements);
            Panels = new float[threads][];
            for (var i = 0; i < threads; i++)
                Panels[i] = ArrayPool<float>.Shared.Rent(panelElements);
        }

        public float[] Prediction { get; }

        public float[] Next { get; }

        public float[][] Panels { get; }

        public void Return()
        {
            ArrayPool<float>.Shared.Return(Prediction);
            ArrayPool<float>.Shared.Return(Next);
            foreach (var panel in Panels)
                ArrayPool<float>.Shared.Return(panel);
        }
    }
}
