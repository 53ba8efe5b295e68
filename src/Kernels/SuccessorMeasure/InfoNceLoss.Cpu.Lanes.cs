using System.Numerics;
using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

public static partial class InfoNceLoss
{
    /// <summary>The loops over the tiles of a strip; lanes are queries, or keys where the softmax goes over queries.</summary>
    private static unsafe class InfoNceLanes<T, TLanes, TLogit>
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
        where TLogit : struct, ILogit<T, TLanes>
    {
        /// <summary>Makes dot products logits, in place.</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Logits(T* tile, int rows, int lanes, T* laneTerms, T* rowTerms, in LogitScale<T, TLanes> scales)
        {
            var scale = scales;
            for (var row = 0; row < rows; row++)
            {
                var rowTerm = TLanes.Broadcast(rowTerms[row]);
                for (var lane = 0; lane < lanes; lane += TLanes.Count)
                {
                    var at = tile + (long)row * lanes + lane;
                    TLogit.Logit(TLanes.Load(at), TLanes.Load(laneTerms + lane), rowTerm, scale).Store(at);
                }
            }
        }

        /// <summary>Takes logits into the running maxima and into the sums of exp(logit − maximum).</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Accumulate(T* tile, int rows, int lanes, T* maxima, T* sums)
        {
            for (var lane = 0; lane < lanes; lane += TLanes.Count)
            {
                var before = TLanes.Load(maxima + lane);
                var maximum = before;
                for (var row = 0; row < rows; row++)
                    maximum = TLanes.Max(maximum, TLanes.Load(tile + (long)row * lanes + lane));
                var sum = TLanes.Load(sums + lane) * TLanes.Exp(before - maximum);
                for (var row = 0; row < rows; row++)
                    sum += TLanes.Exp(TLanes.Load(tile + (long)row * lanes + lane) - maximum);
                maximum.Store(maxima + lane);
                sum.Store(sums + lane);
            }
        }

        /// <summary>Makes logits the weights of their gradients, in place, and adds the weights up by lane and by row.</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Weights(
            T* tile, int rows, int lanes, T* logSums, T* factors, T* columnLogSums, T* columnFactors, T* rowTerms,
            in LogitScale<T, TLanes> scales, T* laneSums, T* rowSums)
        {
            var scale = scales;
            for (var row = 0; row < rows; row++)
            {
                var rowTerm = TLanes.Broadcast(rowTerms[row]);
                var total = scale.Zero;
                for (var lane = 0; lane < lanes; lane += TLanes.Count)
                {
                    var at = tile + (long)row * lanes + lane;
                    var logit = TLanes.Load(at);
                    var slope = TLanes.Exp(logit - TLanes.Load(logSums + lane)) * TLanes.Load(factors + lane);
                    if (columnLogSums != null)
                        slope = TLanes.MultiplyAdd(
                            TLanes.Exp(logit - TLanes.Broadcast(columnLogSums[row])), TLanes.Load(columnFactors + lane), slope);
                    var weight = TLogit.Weight(slope, logit, rowTerm, scale);
                    weight.Store(at);
                    (TLanes.Load(laneSums + lane) + weight).Store(laneSums + lane);
                    total += weight;
                }

                rowSums[row] += total.Sum();
            }
        }
    }

    /// <summary>The rows of queries and keys on their way in and out, and what is known of each row and each positive pair.</summary>
    private sealed unsafe class InfoNceRows<TIn, T, TLanes>
        where TIn : unmanaged
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
    {
        private readonly InfoNceWork _work;
        private readonly int _d, _step;
        private readonly T* _mean; // [step], of the keys; zero unless logits are distances
        private readonly T* _spare; // [step] twice

        public InfoNceRows(Scratch scratch, in InfoNceWork work, int step)
        {
            (_work, _d, _step) = (work, work.Dimension, step);
            _mean = scratch.TakeZeroed<T>(3L * step);
            _spare = _mean + step;
            QueryTerms = scratch.Take<T>(3L * work.Count);
            KeyTerms = QueryTerms + work.Count;
            PositiveWeights = KeyTerms + work.Count;
            Positives = scratch.Take<double>(work.Count);
            if (work.Options.IsDistance)
                Centre(scratch);
            for (var i = 0; i < work.Count; i++)
            {
                QueryTerms[i] = Term(work.Queries, i);
                KeyTerms[i] = Term(work.Keys, i);
                Positives[i] = Positive(i);
            }
        }

        /// <summary>[n]: squared norms about the mean of the keys, or reciprocals of norms.</summary>
        public T* QueryTerms { get; }

        /// <inheritdoc cref="QueryTerms"/>
        public T* KeyTerms { get; }

        /// <summary>[n]: l_ii, formed directly.</summary>
        public double* Positives { get; }

        /// <summary>[n]: w_ii.</summary>
        public T* PositiveWeights { get; }

        /// <summary>Some rows as products take them: about the mean.</summary>
        public void Load(void* matrix, int first, int rows, T* block)
        {
            for (var row = 0; row < rows; row++)
                Load(matrix, first + row, block + (long)row * _step, null, isLane: false);
        }

        /// <summary>One row; for a lane of cosines, normalised.</summary>
        public void Load(void* matrix, int i, T* row, T* terms, bool isLane)
        {
            Rows.Copy((TIn*)matrix + (long)i * _d, row, _d, _step);
            if (_work.Options.IsDistance)
                FbLanes<T, TLanes>.AddScaled(row, _mean, -1, _step);
            else if (isLane && _work.Options.Similarity == InfoNceSimilarity.Cosine)
                FbLanes<T, TLanes>.Scale(row, terms[i], _step);
        }

        /// <summary>w_ii from the slope of l_ii.</summary>
        public void SetPositiveWeight(int i, double slope)
        {
            var (scale, options) = (slope / _work.Options.Temperature, _work.Options);
            PositiveWeights[i] = T.CreateTruncating(options.Similarity switch
            {
                InfoNceSimilarity.Dot => scale,
                InfoNceSimilarity.Cosine => scale * double.CreateTruncating(KeyTerms[i]),
                InfoNceSimilarity.NegativeSquaredDistance => 2 * scale,
                _ => Positives[i] == 0 ? 0 : scale / (-Positives[i] * options.Temperature),
            });
        }

        /// <summary>∂loss/∂φ_i from its column of sums, Σ_j w_ij, and the row as products took it.</summary>
        public void StoreQuery(int i, T* column, int columnStep, T weightSum, T* row)
        {
            var sums = _spare + _step;
            for (var k = 0; k < _d; k++)
                sums[k] = column[(long)k * columnStep];
            Rows.Zero(sums + _d, _step - _d);
            if (_work.Options.IsDistance)
            {
                FbLanes<T, TLanes>.AddScaled(sums, row, -double.CreateTruncating(weightSum), _step);
                AddPositive(i, sums, 1);
            }
            else if (_work.Options.Similarity == InfoNceSimilarity.Cosine)
            {
                Project(sums, row);
                FbLanes<T, TLanes>.Scale(sums, QueryTerms[i], _step);
            }

            Rows.Copy(sums, (T*)_work.QueryGradient + (long)i * _d, _d, _d);
        }

        /// <summary>∂loss/∂ψ_j from the sums in its place and Σ_i w_ij.</summary>
        public void FinishKey(int j, T weightSum)
        {
            var gradient = (T*)_work.KeyGradient + (long)j * _d;
            if (_work.Options.Similarity == InfoNceSimilarity.Dot)
                return;
            var sums = _spare + _step;
            Rows.Copy(gradient, sums, _d, _step);
            Load(_work.Keys, j, _spare, KeyTerms, isLane: true);
            if (_work.Options.IsDistance)
            {
                FbLanes<T, TLanes>.AddScaled(sums, _spare, -double.CreateTruncating(weightSum), _step);
                AddPositive(j, sums, -1);
            }
            else
            {
                // The sums lack the factor ‖ψ‖ that the gradient's 1 / ‖ψ‖ would take away again.
                Project(sums, _spare);
            }

            Rows.Copy(sums, gradient, _d, _d);
        }

        // sums −= (sums · unit) unit
        private void Project(T* sums, T* unit) =>
            FbLanes<T, TLanes>.AddScaled(sums, unit, -double.CreateTruncating(FbLanes<T, TLanes>.Dot(sums, unit, _step)), _step);

        // sums += sign · w_ii (ψ_i − φ_i)
        private void AddPositive(int i, T* sums, int sign)
        {
            var weight = sign < 0 ? -PositiveWeights[i] : PositiveWeights[i];
            for (var k = 0; k < _d; k++)
                sums[k] += weight * (Element(_work.Keys, i, k) - Element(_work.Queries, i, k));
        }

        private void Centre(Scratch scratch)
        {
            var mean = scratch.TakeZeroed<double>(_d);
            for (var i = 0; i < _work.Count; i++)
            {
                for (var k = 0; k < _d; k++)
                    mean[k] += double.CreateTruncating(Element(_work.Keys, i, k));
            }

            for (var k = 0; k < _d; k++)
                _mean[k] = T.CreateTruncating(mean[k] / _work.Count);
        }

        private T Term(void* matrix, int i)
        {
            if (_work.Options.Similarity == InfoNceSimilarity.Dot)
                return T.Zero;
            Load(matrix, i, _spare, null, isLane: false);
            var sum = 0.0;
            for (var k = 0; k < _d; k++)
                sum += double.CreateTruncating(_spare[k]) * double.CreateTruncating(_spare[k]);
            return T.CreateTruncating(_work.Options.IsDistance ? sum : sum == 0 ? 0 : 1 / Math.Sqrt(sum));
        }

        private double Positive(int i)
        {
            var (dot, square, options) = (0.0, 0.0, _work.Options);
            for (var k = 0; k < _d; k++)
            {
                var query = double.CreateTruncating(Element(_work.Queries, i, k));
                var key = double.CreateTruncating(Element(_work.Keys, i, k));
                dot += query * key;
                square += (query - key) * (query - key);
            }

            return options.Similarity switch
            {
                InfoNceSimilarity.Dot => dot,
                InfoNceSimilarity.Cosine => dot * double.CreateTruncating(QueryTerms[i]) * double.CreateTruncating(KeyTerms[i]),
                InfoNceSimilarity.NegativeSquaredDistance => -square,
                _ => -Math.Sqrt(square + options.DistanceOffset),
            } / options.Temperature;
        }

        private T Element(void* matrix, int i, int k) => Rows.Widen<TIn, T>(((TIn*)matrix)[(long)i * _d + k]);
    }
}
