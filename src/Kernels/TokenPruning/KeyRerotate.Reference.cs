namespace AuxCore.Kernels;

public static partial class KeyRerotate
{
    /// <summary>The formula of the class in double, pair by pair.</summary>
    private static unsafe void RunReference(RerotateWork work)
    {
        foreach (var layer in work.Layers)
        {
            for (var strip = 0L; strip < layer.Strips; strip++)
            {
                for (var token = 0; token < work.Tokens; token++)
                {
                    var key = layer.StripAt(strip) + token * layer.TokenStep;
                    for (var pair = 0; pair < work.Rotated / 2 && !work.Stays(token); pair++)
                    {
                        var (first, second) = work.Elements(pair);
                        var (sine, cosine) = Math.SinCos(work.Angle(token, pair));
                        double a = ReferenceFormat.Widen((void*)layer.Address, layer.DType, key + first);
                        double b = ReferenceFormat.Widen((void*)layer.Address, layer.DType, key + second);
                        ReferenceFormat.Store((void*)layer.Address, layer.DType, key + first, (float)(a * cosine - b * sine));
                        ReferenceFormat.Store((void*)layer.Address, layer.DType, key + second, (float)(b * cosine + a * sine));
                    }
                }
            }
        }
    }
}
