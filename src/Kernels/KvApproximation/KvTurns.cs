namespace AuxCore.Kernels;

/// <summary>The cosines and sines that each token of a call is rotated by: from the table of its options, or made for the call.</summary>
internal sealed unsafe class KvTurns : IDisposable
{
    private readonly RotaryTable? _table; // whose memory the addresses are of
    private readonly Scratch? _scratch;
    private readonly float* _cosines, _sines;
    private readonly int* _positions;
    private readonly int _pairs;

    public KvTurns(RotaryOptions? options, int rotated, in KvPlaces places)
    {
        if (options is null || places.Tokens == 0)
            return;
        _pairs = rotated / 2;
        var positions = places.GreatestPosition + 1L;
        if (positions <= RotaryTable.MostPositions)
        {
            _table = options.TableOf(rotated, (int)positions);
            _cosines = _table.Cosines;
            _sines = _table.Sines;
            _positions = places.Positions;
            return;
        }

        _scratch = new();
        _cosines = _scratch.Take<float>((long)places.Tokens * _pairs);
        _sines = _scratch.Take<float>((long)places.Tokens * _pairs);
        var frequencies = options.FrequenciesOf(rotated);
        for (var token = 0; token < places.Tokens; token++)
            RotaryTable.Fill(frequencies, places.Positions[token], _cosines + (long)token * _pairs, _sines + (long)token * _pairs);
    }

    /// <summary>[pairs] each; null where nothing is rotated.</summary>
    public (nint Cosines, nint Sines) Of(int token)
    {
        var at = (long)(_positions == null ? token : _positions[token]) * _pairs;
        return ((nint)(_cosines + at), (nint)(_sines + at));
    }

    public void Dispose()
    {
        _scratch?.Dispose();
        GC.KeepAlive(_table);
    }
}
