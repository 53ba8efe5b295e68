using System.Numerics;

namespace AuxCore.Kernels;

public static partial class InfoNceLoss
{
    /// <summary>
    /// Strips of <see cref="Lanes"/> queries against all keys: logits with a running maximum and sum, then their weights in their place,
    /// and both gradients from them. 6 n² d operations, 8 n² d for a symmetric loss, and one strip of memory.
    /// </summary>
    /// <remarks>
    /// Queries lie in the lanes, so everything over keys is a loop over rows. The keys are cut into segments, which threads share; maxima,
    /// sums and gradients of segments are put together in their order. So the number of threads changes no bit.
    /// </remarks>
    private sealed unsafe class InfoNceStrips<TIn, T, TLanes, TLogit>
        where TIn : unmanaged
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
        where TLogit : struct, ILogit<T, TLanes>
    {
        private const int Lanes = 96; // three vectors, of any width, some times
        private const int TileRows = 128;
        private const int SegmentRows = 512;
        private const int MostSegments = 8;

        private readonly InfoNceWork _work;
        private readonly InfoNceRows<TIn, T, TLanes> _rows;
        private readonly LogitScale<T, TLanes> _scale;
        private readonly int _n, _d, _step, _segments, _threads;
        private readonly T* _columns; // [d, Lanes]: what is in the lanes
        private readonly T* _laneRows; // [Lanes, step]: the same in rows
        private readonly T* _laneTerms; // [Lanes]
        private readonly T* _strip; // [n, Lanes]: logits, then weights
        private readonly T* _maxima, _sums, _weightSums; // [segment, Lanes]
        private readonly T* _gradients; // [segment, d, Lanes]
        private readonly T* _keySums; // [n]: Σ_i w_ij
        private readonly T* _columnLogSums; // [n], where the loss is symmetric
        private readonly T* _perThread; // [TileRows, step] twice

        private InfoNceStrips(Scratch scratch, in InfoNceWork work)
        {
            _work = work;
            _scale = new(work.Options);
            (_n, _d) = (work.Count, work.Dimension);
            _step = BlockedProduct<T, TLanes>.RowStep(_d);
            _segments = Math.Clamp(_n / SegmentRows, 1, MostSegments);
            _threads = Math.Min(ThreadTeam.Count((long)_n * _n * _d, MinimumWorkPerThread), _segments);
            _rows = new(scratch, work, _step);
            _columns = scratch.Take<T>((long)_d * Lanes);
            _laneRows = scratch.Take<T>((long)Lanes * _step);
            _laneTerms = scratch.Take<T>(Lanes);
            _strip = scratch.Take<T>((long)_n * Lanes);
            _maxima = scratch.Take<T>(3L * _segments * Lanes);
            _sums = _maxima + _segments * Lanes;
            _weightSums = _sums + _segments * Lanes;
            _gradients = scratch.Take<T>((long)_segments * _d * Lanes);
            _keySums = scratch.TakeZeroed<T>(_n);
            _columnLogSums = work.Options.IsSymmetric ? scratch.Take<T>(_n) : null;
            _perThread = scratch.Take<T>(2L * TileRows * _step * _threads);
        }

        public static void Run(in InfoNceWork work)
        {
            using var scratch = new Scratch();
            var strips = new InfoNceStrips<TIn, T, TLanes, TLogit>(scratch, work);
            strips.Run();
        }

        private void Run()
        {
            var (contrast, penalty, options) = (0.0, 0.0, _work.Options);
            var logSums = stackalloc double[Lanes];
            for (var from = 0; options.IsSymmetric && from < _n; from += Lanes)
            {
                var lanes = Math.Min(Lanes, _n - from);
                LogSums(_work.Keys, _rows.KeyTerms, _work.Queries, _rows.QueryTerms, from, lanes, logSums);
                for (var lane = 0; lane < lanes; lane++)
                {
                    _columnLogSums[from + lane] = T.CreateTruncating(logSums[lane]);
                    contrast += logSums[lane] - _rows.Positives[from + lane];
                }
            }

            for (var from = 0; from < _n; from += Lanes)
            {
                var lanes = Math.Min(Lanes, _n - from);
                LogSums(_work.Queries, _rows.QueryTerms, _work.Keys, _rows.KeyTerms, from, lanes, logSums);
                for (var lane = 0; lane < lanes; lane++)
                {
                    contrast += logSums[lane] - _rows.Positives[from + lane];
                    penalty += options.LogSumExpPenalty * logSums[lane] * logSums[lane];
                }

                Differentiate(from, lanes, logSums);
            }

            for (var j = 0; j < _n; j++)
                _rows.FinishKey(j, _keySums[j]);
            _work.Loss[0] = contrast / _n;
            _work.Loss[1] = penalty / _n;
        }

        /// <summary>Fills the strip with the logits of some lanes and all rows, and gives the lanes' logsumexps.</summary>
        private void LogSums(void* laneMatrix, T* laneTerms, void* rowMatrix, T* rowTerms, int from, int lanes, double* logSums)
        {
            for (var lane = 0; lane < Lanes; lane++)
            {
                var row = _laneRows + (long)lane * _step;
                if (lane < lanes)
                    _rows.Load(laneMatrix, from + lane, row, laneTerms, isLane: true);
                else
                    Rows.Zero(row, _step);
                _laneTerms[lane] = lane < lanes ? laneTerms[from + lane] : T.Zero;
            }

            for (var k = 0; k < _d; k++)
            {
                for (var lane = 0; lane < Lanes; lane++)
                    _columns[(long)k * Lanes + lane] = _laneRows[(long)lane * _step + k];
            }

            InSegments((segment, first, rows, memory) =>
            {
                _rows.Load(rowMatrix, first, rows, memory);
                var strip = _strip + (long)first * Lanes;
                Rows.Zero(strip, rows * Lanes);
                BlockedProduct<T, TLanes>.Add(rows, Lanes, _d, Factor<T>.Rows(memory, _step), _columns, Lanes, strip, Lanes);
                InfoNceLanes<T, TLanes, TLogit>.Logits(strip, rows, Lanes, _laneTerms, rowTerms + first, _scale);
                var excluded = _work.Options.ExcludePositives;
                SetPositives(from, first, rows, i => excluded ? T.NegativeInfinity : T.CreateTruncating(_rows.Positives[i]));
                InfoNceLanes<T, TLanes, TLogit>.Accumulate(strip, rows, Lanes, _maxima + segment * Lanes, _sums + segment * Lanes);
            }, segment =>
            {
                new Span<T>(_maxima + segment * Lanes, Lanes).Fill(T.NegativeInfinity);
                Rows.Zero(_sums + segment * Lanes, Lanes);
            });

            for (var lane = 0; lane < Lanes; lane++)
            {
                var (largest, sum) = (double.NegativeInfinity, 0.0);
                for (var segment = 0; segment < _segments; segment++)
                    largest = Math.Max(largest, double.CreateTruncating(_maxima[segment * Lanes + lane]));
                for (var segment = 0; segment < _segments; segment++)
                {
                    var at = segment * Lanes + lane;
                    sum += double.CreateTruncating(_sums[at]) * Math.Exp(double.CreateTruncating(_maxima[at]) - largest);
                }

                logSums[lane] = largest + Math.Log(sum);
            }
        }

        /// <summary>Both gradients' share of the strip that <see cref="LogSums"/> left.</summary>
        private void Differentiate(int from, int lanes, double* logSums)
        {
            // Lanes beyond the last query: exp(logit − ∞) = 0, and nothing of the columns' softmax.
            var laneSums = stackalloc T[3 * Lanes];
            var factors = laneSums + Lanes;
            var columnFactors = factors + Lanes;
            for (var lane = 0; lane < Lanes; lane++)
            {
                var isQuery = lane < lanes;
                laneSums[lane] = isQuery ? T.CreateTruncating(logSums[lane]) : T.PositiveInfinity;
                factors[lane] = T.CreateTruncating(isQuery ? Slope(logSums[lane]) : 0);
                columnFactors[lane] = T.CreateTruncating(isQuery ? 1.0 / _n : 0);
            }

            for (var lane = 0; lane < lanes; lane++)
                _rows.SetPositiveWeight(from + lane, PositiveSlope(from + lane, logSums[lane]));

            InSegments((segment, first, rows, memory) =>
            {
                _rows.Load(_work.Keys, first, rows, memory);
                var strip = _strip + (long)first * Lanes;
                var columns = _columnLogSums == null ? null : _columnLogSums + first;
                SetPositives(from, first, rows, _ => T.NegativeInfinity); // their slopes are known
                InfoNceLanes<T, TLanes, TLogit>.Weights(
                    strip, rows, Lanes, laneSums, factors, columns, columnFactors, _rows.KeyTerms + first, _scale,
                    _weightSums + segment * Lanes, _keySums + first);
                if (!_work.Options.IsDistance)
                    SetPositives(from, first, rows, i => _rows.PositiveWeights[i]);

                BlockedProduct<T, TLanes>.Add(
                    _d, Lanes, rows, Factor<T>.Columns(memory, _step), strip, Lanes, _gradients + (long)segment * _d * Lanes, Lanes);
                var added = memory + (long)TileRows * _step;
                Rows.Zero(added, rows * _step);
                BlockedProduct<T, TLanes>.Add(rows, _d, Lanes, Factor<T>.Rows(strip, Lanes), _laneRows, _step, added, _step);
                var gradient = (T*)_work.KeyGradient + (long)first * _d;
                for (var row = 0; row < rows; row++)
                    FbLanes<T, TLanes>.AddRow(gradient + (long)row * _d, added + (long)row * _step, _d, overwrite: from == 0);
            }, segment =>
            {
                Rows.Zero(_weightSums + segment * Lanes, Lanes);
                Rows.Zero(_gradients + (long)segment * _d * Lanes, _d * Lanes);
            });

            for (var segment = 1; segment < _segments; segment++)
            {
                FbLanes<T, TLanes>.AddScaled(_gradients, _gradients + (long)segment * _d * Lanes, 1, _d * Lanes);
                FbLanes<T, TLanes>.AddScaled(_weightSums, _weightSums + segment * Lanes, 1, Lanes);
            }

            for (var lane = 0; lane < lanes; lane++)
                _rows.StoreQuery(from + lane, _gradients + lane, Lanes, _weightSums[lane], _laneRows + (long)lane * _step);
        }

        private double Slope(double logSum) => (1 + 2 * _work.Options.LogSumExpPenalty * logSum) / _n;

        private double PositiveSlope(int i, double logSum)
        {
            var (logit, options) = (_rows.Positives[i], _work.Options);
            var slope = options.ExcludePositives ? 0 : Math.Exp(logit - logSum) * Slope(logSum);
            if (!options.IsSymmetric)
                return slope - 1.0 / _n;
            return slope - 2.0 / _n
                + (options.ExcludePositives ? 0 : Math.Exp(logit - double.CreateTruncating(_columnLogSums[i])) / _n);
        }

        private void SetPositives(int from, int first, int rows, Func<int, T> value)
        {
            for (var i = Math.Max(from, first); i < Math.Min(Math.Min(from + Lanes, _n), first + rows); i++)
                _strip[(long)i * Lanes + (i - from)] = value(i);
        }

        private delegate void Tile(int segment, int first, int rows, T* memory);

        /// <summary>Runs over all rows, a tile at a time; a segment's tiles in order, by one thread.</summary>
        private void InSegments(Tile tile, Action<int> begin)
        {
            var tiles = (_n + TileRows - 1) / TileRows;
            ThreadTeam.Run(_threads, part =>
            {
                for (var segment = part; segment < _segments; segment += _threads)
                {
                    begin(segment);
                    for (var at = tiles * (long)segment / _segments; at < tiles * (segment + 1L) / _segments; at++)
                    {
                        var first = (int)at * TileRows;
                        tile(segment, first, Math.Min(TileRows, _n - first), _perThread + 2L * TileRows * _step * part);
                    }
                }
            });
        }
    }
}
