namespace AuxCore.Kernels;

public static partial class KvDecodeAttention
{
    /// <summary>
    /// The units of work, a chunk of positions of a block of heads each, and where their results lie: the maxima and sums of a block's
    /// heads, then [heads, d] of weighted values.
    /// </summary>
    private sealed unsafe class KvAttentionParts
    {
        /// <summary>Floats before the values.</summary>
        public const int Head = 2 * Block;

        /// <summary>Scores, then weights, of a unit; padded to whole vectors.</summary>
        public const int Weights = Block * (ChunkPositions + 4);

        private readonly int _blocks;
        private readonly int _kvHeads;
        private readonly int _headsPerGroup;
        private readonly long[] _first; // units before each head of keys and values of each sequence
        private readonly int[] _chunks;
        private readonly long _floats;
        private readonly float* _results, _weights;

        public KvAttentionParts(in KvAttentionWork work, Scratch scratch)
        {
            var shape = work.Shape;
            (_kvHeads, _headsPerGroup, _blocks) = (shape.KvHeads, shape.HeadsPerGroup, (shape.HeadsPerGroup + Block - 1) / Block);
            (_first, _chunks) = (new long[shape.Batch * shape.KvHeads], new int[shape.Batch * shape.KvHeads]);
            for (var i = 0; i < _first.Length; i++)
            {
                var length = work.Length(i / _kvHeads, i % _kvHeads);
                _first[i] = Count;
                _chunks[i] = (length + ChunkPositions - 1) / ChunkPositions;
                Count += (long)_blocks * _chunks[i];
                Elements += 2L * length * shape.HeadDim * _blocks;
            }

            _floats = Head + Block * (long)shape.HeadDim;
            _results = scratch.Take<float>(Count * _floats);
            if (work.PositionSums != null)
                _weights = scratch.Take<float>(Count * Weights);
        }

        /// <summary>How many units there are.</summary>
        public long Count { get; }

        /// <summary>Elements of the cache that are read.</summary>
        public long Elements { get; }

        public float* Result(long unit) => _results + unit * _floats;

        /// <summary>[positions, block], where all units keep theirs.</summary>
        public float* WeightsOf(long unit) => _weights + unit * Weights;

        /// <summary>What a unit is of. Chunks that follow each other are neighbours.</summary>
        public (int Sequence, int KvHead, int Block, int Chunk) Unit(long unit)
        {
            // The last that begins at the unit or before it: those without units are passed over.
            var (low, high) = (0, _first.Length - 1);
            while (low < high)
            {
                var middle = (low + high + 1) / 2;
                (low, high) = _first[middle] <= unit ? (middle, high) : (low, middle - 1);
            }

            var (block, chunk) = Math.DivRem(unit - _first[low], _chunks[low]);
            return (low / _kvHeads, low % _kvHeads, (int)block, (int)chunk);
        }

        /// <summary>The units of a query head.</summary>
        public (long First, int Count) UnitsOf(int b, int head)
        {
            var at = b * _kvHeads + head / _headsPerGroup;
            return (_first[at] + (long)(head % _headsPerGroup / Block) * _chunks[at], _chunks[at]);
        }
    }
}
