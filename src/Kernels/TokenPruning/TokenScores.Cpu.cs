using System.Runtime.InteropServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TokenScores
{
    // Below this many multiplications a thread, waking it is not worth the while.
    private const long MinimumWorkPerThread = 1 << 20;

    // So many rows of queries, or more, share a head of keys before turning the keys over pays: a product of matrices then.
    private const int LeastRowsOfProduct = 24;

    // The logits of a strip of rows and all keys stay in the second-level cache, or nearly so; then they are formed once, not twice.
    private const int MostKeysOfStrip = 4096;

    private static void RunCpu(in TokenScoresWork work)
    {
        switch (work.DType)
        {
            case DType.Float32:
                RunCpu<float>(work);
                break;
            case DType.BFloat16:
                RunCpu<BFloat16>(work);
                break;
            default:
                RunCpu<Half>(work);
                break;
        }
    }

    private static unsafe void RunCpu<T>(in TokenScoresWork work) where T : unmanaged
    {
        if ((long)work.Batch * work.Tokens == 0)
            return;
        if (work.Rows == 0)
        {
            NativeMemory.Clear(work.Scores, (nuint)((long)work.Batch * work.Tokens * sizeof(float)));
            return;
        }

        if ((long)work.Rows * work.Group < LeastRowsOfProduct)
            RunFewRows<T>(work);
        else if (work.LogSumExp == null && work.Tokens <= MostKeysOfStrip)
            RunStrips<T>(work);
        else
            RunTiles<T>(work);
    }

    private static int Threads(in TokenScoresWork work, long most)
    {
        var products = (long)work.Batch * work.QueryHeads * work.Rows * work.Tokens * work.Depth;
        return (int)Math.Min(ThreadTeam.Count(products, MinimumWorkPerThread), most);
    }

    private static (int From, int To) Share(int count, int part, int parts) =>
        ((int)((long)count * part / parts), (int)((long)count * (part + 1) / parts));
}
