using System.Numerics;

namespace AuxCore.Kernels;

public static partial class ForwardBackwardLoss
{
    /// <summary>
    /// The loss from tiles of the n × n matrices, for targets that are not bilinear. A tile's differences are formed, used for both
    /// gradients while they are in the cache, and forgotten: 8 E n² d operations, and memory that does not grow with n² nor, but for the
    /// diagonals, with n.
    /// </summary>
    /// <remarks>
    /// Transitions i lie in the lanes, <see cref="Lanes"/> of them at a time; transitions j are met <see cref="TileRows"/> at a time, read
    /// where they lie. The j are cut into segments, which threads share; what segments add to ∂F is added up in their order. So the number
    /// of threads changes no bit.
    /// </remarks>
    private static unsafe class TiledForm<TIn, T, TLanes, TDouble>
        where TIn : unmanaged
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
        where TDouble : struct, ILanes<TDouble, double>
    {
        private const int Lanes = 96; // three vectors, of any width, some times
        private const int TileRows = 128;
        private const int SegmentRows = 512;
        private const int MostSegments = 8;

        public static void Run(in FbWork work)
        {
            using var scratch = new Scratch();
            var threads = ThreadTeam.Count((long)work.Count * work.Count * work.Dimension, MinimumWorkPerThread);
            var diagonals = new FbDiagonals<TIn, TDouble>(scratch, work);
            var tiles = new Tiles(scratch, work, threads);
            var squares = 0.0;
            for (var from = 0; from < work.Count; from += Lanes)
                squares += tiles.Run(work, from, Math.Min(Lanes, work.Count - from));
            FinishBackward(work, diagonals, scratch, threads);
            work.Loss[0] = squares / (2 * work.Pairs);
            diagonals.Grams.WriteLoss(work, withSquares: false);
        }

        /// <summary>Memory and steps of one block of lanes against all j.</summary>
        private readonly struct Tiles
        {
            private readonly int _heads, _d, _step, _threads, _segments;
            private readonly T* _forward; // [E, d, Lanes]: the F_i
            private readonly T* _target; // [E, d, Lanes]: the γ_i F̄_i
            private readonly T* _rows; // [E, Lanes, step]: the F_i again, in rows
            private readonly T* _gradients; // a segment: [E, d, Lanes]
            private readonly double* _squares; // a segment
            private readonly T* _perThread; // [2E, TileRows, Lanes], then two blocks [TileRows, step] and one of the same for ∂B
            private readonly long _threadSize;

            public Tiles(Scratch scratch, in FbWork work, int threads)
            {
                (_heads, _d) = (work.Heads, work.Dimension);
                _step = BlockedProduct<T, TLanes>.RowStep(_d);
                _segments = Math.Clamp(work.Count / SegmentRows, 1, MostSegments);
                _threads = Math.Min(threads, _segments);
                var columns = (long)_heads * _d * Lanes;
                _forward = scratch.Take<T>(columns);
                _target = scratch.Take<T>(columns);
                _rows = scratch.Take<T>((long)_heads * Lanes * _step);
                _gradients = scratch.Take<T>(columns * _segments);
                _squares = scratch.Take<double>(_segments);
                _threadSize = (2L * _heads * Lanes + 3L * _step) * TileRows;
                _perThread = scratch.Take<T>(_threadSize * _threads);
            }

            /// <summary>Adds one block's share to ∂B, writes its ∂F, and returns its squared differences.</summary>
            public double Run(FbWork work, int from, int lanes)
            {
                Load(work, from, lanes);
                var (self, chunks) = (this, (work.Count + TileRows - 1) / TileRows);
                ThreadTeam.Run(_threads, part =>
                {
                    for (var segment = part; segment < self._segments; segment += self._threads)
                    {
                        Rows.Zero(self.Gradient(segment, 0), self._heads * self._d * Lanes);
                        var (begin, end) = (chunks * (long)segment / self._segments, chunks * (segment + 1L) / self._segments);
                        var squares = 0.0;
                        for (var chunk = begin; chunk < end; chunk++)
                            squares += self.Tile(work, from, (int)chunk * TileRows, segment, self._perThread + part * self._threadSize);
                        self._squares[segment] = squares;
                    }
                });
                StoreForward(work, from, lanes);
                var sum = 0.0;
                for (var segment = 0; segment < _segments; segment++)
                    sum += _squares[segment];
                return sum;
            }

            private T* Gradient(int segment, int head) => _gradients + ((long)segment * _heads + head) * _d * Lanes;

            private void Load(in FbWork work, int from, int lanes)
            {
                var (n, d) = (work.Count, _d);
                for (var e = 0; e < _heads; e++)
                {
                    var at = ((long)e * n + from) * d;
                    Rows.Transpose((TIn*)work.Forward + at, lanes, d, _forward + (long)e * d * Lanes, Lanes);
                    Rows.Transpose((TIn*)work.TargetForward + at, lanes, d, _target + (long)e * d * Lanes, Lanes);
                    for (var lane = 0; lane < Lanes; lane++)
                    {
                        var row = _rows + ((long)e * Lanes + lane) * _step;
                        if (lane < lanes)
                            Rows.Copy((TIn*)work.Forward + at + (long)lane * d, row, d, _step);
                        else
                            Rows.Zero(row, _step);
                    }
                }

                // Minimum, mean and penalty are homogeneous, so the discount may come before them; where it is 0, F̄ is not to be read.
                for (var lane = 0; lane < lanes; lane++)
                {
                    var discount = T.CreateTruncating(work.DiscountOf(from + lane));
                    for (var k = 0L; k < (long)_heads * d; k++)
                        _target[k * Lanes + lane] = discount == T.Zero ? T.Zero : _target[k * Lanes + lane] * discount;
                }
            }

            private double Tile(in FbWork work, int from, int first, int segment, T* memory)
            {
                var (d, rows) = (_d, Math.Min(TileRows, work.Count - first));
                const long Size = (long)TileRows * Lanes;
                var targets = memory + _heads * Size;
                var backward = targets + _heads * Size;
                var added = backward + 2L * TileRows * _step;
                var b = Operand(work.Backward, first, rows, backward);
                var bBar = Operand(work.TargetBackward, first, rows, backward + (long)TileRows * _step);
                for (var e = 0; e < _heads; e++)
                {
                    Rows.Zero(memory + e * Size, rows * Lanes);
                    Rows.Zero(targets + e * Size, rows * Lanes);
                    BlockedProduct<T, TLanes>.Add(rows, Lanes, d, b, _forward + (long)e * d * Lanes, Lanes, memory + e * Size, Lanes);
                    BlockedProduct<T, TLanes>.Add(rows, Lanes, d, bBar, _target + (long)e * d * Lanes, Lanes, targets + e * Size, Lanes);
                }

                // Pairs (i, i) are no part of this: a difference of 0.
                for (var i = Math.Max(from, first); i < Math.Min(from + Lanes, first + rows); i++)
                {
                    for (var e = 0; e < 2 * _heads; e++)
                        memory[e * Size + (long)(i - first) * Lanes + (i - from)] = T.Zero;
                }

                var squares = FbLanes<T, TLanes>.Differences(memory, targets, _heads, rows, Lanes, Size, work.Options);
                Rows.Zero(added, rows * _step);
                for (var e = 0; e < _heads; e++)
                {
                    var difference = memory + e * Size;
                    BlockedProduct<T, TLanes>.Add(
                        d, Lanes, rows, new Factor<T>(b.Address, 1, b.RowStep), difference, Lanes, Gradient(segment, e), Lanes);
                    BlockedProduct<T, TLanes>.Add(
                        rows, d, Lanes, Factor<T>.Rows(difference, Lanes), _rows + (long)e * Lanes * _step, _step, added, _step);
                }

                var gradient = (T*)work.BackwardGradient + (long)first * d;
                for (var row = 0; row < rows; row++)
                    FbLanes<T, TLanes>.AddRow(gradient + (long)row * d, added + (long)row * _step, d, overwrite: from == 0);
                return squares;
            }

            private static Factor<T> Operand(void* matrix, int first, int rows, T* buffer, int d, int step)
            {
                var at = (TIn*)matrix + (long)first * d;
                if (typeof(TIn) == typeof(T))
                    return Factor<T>.Rows((T*)at, d);
                for (var row = 0; row < rows; row++)
                    Rows.Copy(at + (long)row * d, buffer + (long)row * step, d, step);
                return Factor<T>.Rows(buffer, step);
            }

            private Factor<T> Operand(void* matrix, int first, int rows, T* buffer) => Operand(matrix, first, rows, buffer, _d, _step);

            private void StoreForward(in FbWork work, int from, int lanes)
            {
                for (var segment = 1; segment < _segments; segment++)
                    FbLanes<T, TLanes>.AddScaled(Gradient(0, 0), Gradient(segment, 0), 1, _heads * _d * Lanes);
                var (scale, weight) = (T.CreateTruncating(1 / work.Pairs), T.CreateTruncating(work.Options.DiagonalWeight / work.Count));
                for (var e = 0; e < _heads; e++)
                {
                    var gradient = (T*)work.ForwardGradient + ((long)e * work.Count + from) * _d;
                    for (var lane = 0; lane < lanes; lane++)
                    {
                        // B_i lies where tiles find it only while they are at work: the row is read again.
                        var spare = _rows;
                        Rows.Copy((TIn*)work.Backward + (long)(from + lane) * _d, spare, _d, _step);
                        for (var k = 0; k < _d; k++)
                            gradient[(long)lane * _d + k] = Gradient(0, e)[(long)k * Lanes + lane] * scale - weight * spare[k];
                    }
                }
            }
        }

        /// <summary>∂B from the sums that the tiles left in its place: scale, diagonal part, orthonormality term.</summary>
        private static void FinishBackward(FbWork work, FbDiagonals<TIn, TDouble> diagonals, Scratch scratch, int threads)
        {
            const int BlockRows = 48;
            var (n, d, step) = (work.Count, work.Dimension, BlockedProduct<T, TLanes>.RowStep(work.Dimension));
            var operand = scratch.TakeZeroed<T>((long)d * step);
            var (scale, orthonormality) = (1 / work.Pairs, 2 * work.Options.OrthonormalityWeight / work.Pairs);
            diagonals.Grams.CopyBackward(operand, step, orthonormality);
            var memory = scratch.Take<T>((2L * BlockRows + 1) * step * threads);
            ThreadTeam.Run(threads, part =>
            {
                var b = memory + (2L * BlockRows + 1) * step * part;
                var result = b + (long)BlockRows * step;
                var spare = result + (long)BlockRows * step;
                for (var from = part * BlockRows; from < n; from += threads * BlockRows)
                {
                    var rows = Math.Min(BlockRows, n - from);
                    var gradient = (T*)work.BackwardGradient + (long)from * d;
                    for (var row = 0; row < rows; row++)
                        Rows.Copy((TIn*)work.Backward + (long)(from + row) * d, b + (long)row * step, d, step);
                    Rows.Zero(result, rows * step);
                    BlockedProduct<T, TLanes>.Add(rows, d, d, Factor<T>.Rows(b, step), operand, step, result, step);
                    for (var row = 0; row < rows; row++)
                    {
                        var to = result + (long)row * step;
                        FbLanes<T, TLanes>.AddScaled(to, b + (long)row * step, -diagonals.Grams.NormWeight(work, from + row), step);
                        for (var e = 0; e < work.Heads; e++)
                        {
                            Rows.Copy((TIn*)work.Forward + ((long)e * n + from + row) * d, spare, d, step);
                            FbLanes<T, TLanes>.AddScaled(to, spare, -work.Options.DiagonalWeight / n, step);
                        }

                        Rows.Copy(gradient + (long)row * d, spare, d, step);
                        FbLanes<T, TLanes>.AddScaled(to, spare, scale, step);
                        Rows.Copy(to, gradient + (long)row * d, d, d);
                    }
                }
            });
        }
    }
}
