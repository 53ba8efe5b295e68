using System.Numerics;

namespace AuxCore.Kernels;

public static partial class ForwardBackwardLoss
{
    /// <summary>
    /// The loss from d × d matrices. Two passes over the rows: Grams and diagonals in float64, then the gradients in T.
    /// </summary>
    /// <remarks>
    /// Heads share what they can. Only the sum of the FᵀF is used, all heads meet one target, and with S = Σ_e F^e the sum of the
    /// F̄ᵀDF^e is F̄ᵀDS: nine Gram products of n·d² for two heads, symmetric ones halved, and five for the gradients.
    /// </remarks>
    private static unsafe class GramForm<TIn, T, TLanes, TDouble>
        where TIn : unmanaged
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
        where TDouble : struct, ILanes<TDouble, double>
    {
        private const int GradientRows = 96;

        public static void Run(in FbWork work)
        {
            using var scratch = new Scratch();
            var grams = new FbGrams(scratch, work, BlockedProduct<double, TDouble>.RowStep(work.Dimension), withTargets: true);
            var threads = ThreadTeam.Count((long)work.Count * work.Dimension * work.Dimension, MinimumWorkPerThread);
            Accumulate(work, grams, scratch, threads);
            grams.Mirror();
            var operands = new Operands(scratch, work, grams);
            Differentiate(work, grams, operands, scratch, threads);
            grams.WriteLoss(work, withSquares: true);
        }

        // Every thread widens all rows, which is cheap, and does its own bands of each Gram: nothing is reduced over threads.
        private static void Accumulate(FbWork work, FbGrams grams, Scratch scratch, int threads)
        {
            var step = grams.Step;
            var chunkRows = FbGrams.ChunkRows(work.Dimension);
            var perThread = (long)(work.Heads + 5) * chunkRows * step;
            var memory = scratch.Take<double>(perThread * threads);
            ThreadTeam.Run(threads, part =>
            {
                var chunk = new Chunk(memory + part * perThread, work.Heads, chunkRows, step);
                for (var from = 0; from < work.Count; from += chunkRows)
                {
                    var rows = Math.Min(chunkRows, work.Count - from);
                    chunk.Load(work, from, rows);
                    chunk.Diagonals(work, grams, from, rows, new RowShare(part, threads));
                    chunk.AddTo(grams, work, rows, new RowShare(part, threads));
                }
            });
        }

        /// <summary>Some rows of all inputs in float64, in blocks of padded rows.</summary>
        private readonly struct Chunk(double* memory, int heads, int capacity, int step)
        {
            private double* Forward(int head) => memory + (long)head * capacity * step;

            private double* Sum => Forward(heads);

            private double* Backward => Forward(heads + 1);

            /// <summary>γ_i F̄_i, the mean of the heads; zero where the transition is terminal.</summary>
            private double* Target => Forward(heads + 2);

            private double* TargetBackward => Forward(heads + 3);

            private double* Spare => Forward(heads + 4);

            public void Load(in FbWork work, int from, int rows)
            {
                var (d, n) = (work.Dimension, work.Count);
                for (var row = 0; row < rows; row++)
                {
                    var (at, to) = ((long)(from + row) * d, (long)row * step);
                    Rows.Copy((TIn*)work.Backward + at, Backward + to, d, step);
                    Rows.Copy((TIn*)work.TargetBackward + at, TargetBackward + to, d, step);
                    for (var e = 0; e < heads; e++)
                        Rows.Copy((TIn*)work.Forward + (long)e * n * d + at, Forward(e) + to, d, step);
                    FbLanes<double, TDouble>.Sum(memory + to, (long)capacity * step, heads, Sum + to, step);
                    FbLanes<double, TDouble>.Target<TIn>(work, from + row, Spare, Target + to, step);
                }
            }

            public void Diagonals(in FbWork work, FbGrams grams, int from, int rows, RowShare share)
            {
                for (var row = share.Part; row < rows; row += share.Parts)
                {
                    var (to, i) = ((long)row * step, from + row);
                    for (var e = 0; e < heads; e++)
                        grams.SetProduct(work, e, i, FbLanes<double, TDouble>.Dot(Forward(e) + to, Backward + to, step));
                    grams.SetTarget(i, FbLanes<double, TDouble>.Dot(Target + to, TargetBackward + to, step));
                    grams.SquaredNorms[i] = FbLanes<double, TDouble>.Dot(Backward + to, Backward + to, step);
                }
            }

            public void AddTo(FbGrams grams, in FbWork work, int rows, RowShare share)
            {
                var d = work.Dimension;
                // In the order in which each product finds a factor of the one before it in the cache.
                for (var e = 0; e < heads; e++)
                    BlockedProduct<double, TDouble>.AddGram(d, rows, Forward(e), step, grams.Forward, step, share);
                BlockedProduct<double, TDouble>.Add(
                    d, d, rows, Factor<double>.Columns(Target, step), Sum, step, grams.ForwardCross, step, share);
                BlockedProduct<double, TDouble>.AddGram(d, rows, Target, step, grams.Target, step, share);
                BlockedProduct<double, TDouble>.AddGram(d, rows, TargetBackward, step, grams.TargetBackward, step, share);
                BlockedProduct<double, TDouble>.Add(
                    d, d, rows, Factor<double>.Columns(TargetBackward, step), Backward, step, grams.BackwardCross, step, share);
                BlockedProduct<double, TDouble>.AddGram(d, rows, Backward, step, grams.Backward, step, share);
            }
        }

        /// <summary>The d × d right factors of the gradients, divided by N, in T.</summary>
        private readonly struct Operands
        {
            public Operands(Scratch scratch, in FbWork work, FbGrams grams)
            {
                var d = work.Dimension;
                Step = BlockedProduct<T, TLanes>.RowStep(d);
                var matrix = (long)d * Step;
                Forward = scratch.TakeZeroed<T>(4 * matrix);
                Target = Forward + matrix;
                Backward = Forward + 2 * matrix;
                TargetBackward = Forward + 3 * matrix;
                var (scale, orthonormality) = (1 / work.Pairs, 2 * work.Options.OrthonormalityWeight / work.Pairs);
                for (var row = 0; row < d; row++)
                {
                    for (var column = 0; column < d; column++)
                    {
                        var (to, from) = ((long)row * Step + column, (long)row * grams.Step + column);
                        Forward[to] = T.CreateTruncating(grams.Backward[from] * scale);
                        Target[to] = T.CreateTruncating(-grams.BackwardCross[from] * scale);
                        Backward[to] = T.CreateTruncating(grams.Forward[from] * scale + grams.Backward[from] * orthonormality);
                        TargetBackward[to] = T.CreateTruncating(-grams.ForwardCross[from] * scale);
                    }
                }
            }

            public int Step { get; }

            /// <summary>BᵀB / N, for F^e.</summary>
            public T* Forward { get; }

            /// <summary>−B̄ᵀB / N, for DF̄.</summary>
            public T* Target { get; }

            /// <summary>(Σ FᵀF + 2 · orthonormality · BᵀB) / N, for B.</summary>
            public T* Backward { get; }

            /// <summary>−F̄ᵀDS / N, for B̄.</summary>
            public T* TargetBackward { get; }
        }

        private static void Differentiate(FbWork work, FbGrams grams, Operands operands, Scratch scratch, int threads)
        {
            var step = operands.Step;
            var perThread = (long)(work.Heads + 4) * GradientRows * step + step;
            var memory = scratch.Take<T>(perThread * threads);
            var blocks = (work.Count + GradientRows - 1) / GradientRows;
            ThreadTeam.Run(threads, part =>
            {
                for (var block = part; block < blocks; block += threads)
                {
                    var from = block * GradientRows;
                    Differentiate(work, grams, operands, memory + part * perThread, from, Math.Min(GradientRows, work.Count - from));
                }
            });
        }

        private static void Differentiate(in FbWork work, FbGrams grams, in Operands operands, T* memory, int from, int rows)
        {
            var (heads, n, d, step) = (work.Heads, work.Count, work.Dimension, operands.Step);
            var block = (long)GradientRows * step;
            var b = memory + heads * block;
            var bBar = b + block;
            var shared = bBar + block;
            var result = shared + block;
            var spare = result + block;
            for (var row = 0; row < rows; row++)
            {
                var (at, to) = ((long)(from + row) * d, (long)row * step);
                Rows.Copy((TIn*)work.Backward + at, b + to, d, step);
                Rows.Copy((TIn*)work.TargetBackward + at, bBar + to, d, step);
                for (var e = 0; e < heads; e++)
                    Rows.Copy((TIn*)work.Forward + (long)e * n * d + at, memory + e * block + to, d, step);
                FbLanes<T, TLanes>.Target<TIn>(work, from + row, spare, result + to, step);
            }

            // What all heads owe to their one target.
            Rows.Zero(shared, rows * step);
            BlockedProduct<T, TLanes>.Add(rows, d, d, Factor<T>.Rows(result, step), operands.Target, step, shared, step);
            for (var e = 0; e < heads; e++)
            {
                Buffer.MemoryCopy(shared, result, block * sizeof(T), (long)rows * step * sizeof(T));
                BlockedProduct<T, TLanes>.Add(
                    rows, d, d, Factor<T>.Rows(memory + e * block, step), operands.Forward, step, result, step);
                for (var row = 0; row < rows; row++)
                {
                    var to = (long)row * step;
                    FbLanes<T, TLanes>.AddScaled(result + to, b + to, -grams.DiagonalWeight(work, e, from + row), step);
                }

                Store(result, step, (T*)work.ForwardGradient + ((long)e * n + from) * d, rows, d);
            }

            Rows.Zero(result, rows * step);
            BlockedProduct<T, TLanes>.Add(rows, d, d, Factor<T>.Rows(b, step), operands.Backward, step, result, step);
            BlockedProduct<T, TLanes>.Add(rows, d, d, Factor<T>.Rows(bBar, step), operands.TargetBackward, step, result, step);
            for (var row = 0; row < rows; row++)
            {
                var to = (long)row * step;
                for (var e = 0; e < heads; e++)
                    FbLanes<T, TLanes>.AddScaled(result + to, memory + e * block + to, -grams.DiagonalWeight(work, e, from + row), step);
                FbLanes<T, TLanes>.AddScaled(result + to, b + to, -grams.NormWeight(work, from + row), step);
            }

            Store(result, step, (T*)work.BackwardGradient + (long)from * d, rows, d);
        }

        private static void Store(T* block, int step, T* gradient, int rows, int d)
        {
            for (var row = 0; row < rows; row++)
                Buffer.MemoryCopy(block + (long)row * step, gradient + (long)row * d, (long)d * sizeof(T), (long)d * sizeof(T));
        }
    }
}
