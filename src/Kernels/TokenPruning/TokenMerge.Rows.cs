using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TokenMerge
{
    /// <summary>Merges the rows of each slot into their mean, weighted by sizes.</summary>
    /// <typeparam name="T">float, <see cref="BFloat16"/> or <see cref="Half"/>.</typeparam>
    /// <param name="tokens">[N, width], row-major.</param>
    /// <param name="width">At least 1.</param>
    /// <param name="slots">[N], within −1 and K − 1; a token of slot −1 goes nowhere.</param>
    /// <param name="merged">[K, width], written; K follows from its length.</param>
    /// <param name="sizes">[N], or empty: how many tokens each stands for, 1 without. Finite and above 0.</param>
    /// <param name="mergedSizes">[K], or empty where they are not wanted; written.</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">
    /// Lengths do not fit, a slot is outside the output, a size is not finite and above 0, spans overlap, or T is another type. Nothing was
    /// written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The width is below 1. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Run<T>(
        ReadOnlySpan<T> tokens, int width, ReadOnlySpan<int> slots, Span<T> merged, ReadOnlySpan<float> sizes = default,
        Span<float> mergedSizes = default, AuxBackend backend = AuxBackend.Auto) where T : unmanaged
    {
        TensorArguments.RequireAtLeastOne(nameof(width), width);
        if (merged.Length % width != 0)
            throw new ArgumentException($"merged: {merged.Length} elements are not rows of {width}", nameof(merged));
        var (count, kept) = (slots.Length, merged.Length / width);
        TensorArguments.RequireLength(nameof(tokens), tokens.Length, count, width, nameof(tokens));
        TensorArguments.RequireEmptyOrLength(nameof(sizes), sizes.Length, count, nameof(sizes));
        TensorArguments.RequireEmptyOrLength(nameof(mergedSizes), mergedSizes.Length, kept, nameof(mergedSizes));
        var type = DTypes.Of<T>();
        fixed (T* from = tokens, to = merged)
        fixed (int* places = slots)
        fixed (float* s = sizes, m = mergedSizes)
        {
            Run(
                TensorView.FromPointer(from, type, [count, width]), TensorView.FromPointer(places, DType.Int32, [count]),
                TensorView.FromPointer(to, type, [kept, width]),
                sizes.IsEmpty ? default : TensorView.FromPointer(s, DType.Float32, [count]),
                mergedSizes.IsEmpty ? default : TensorView.FromPointer(m, DType.Float32, [kept]), backend);
        }
    }

    /// <summary>Merges rows in memory of any framework.</summary>
    /// <param name="tokens">float32, bfloat16 or float16 [N, width], contiguous.</param>
    /// <param name="slots">int32 [N], contiguous, within −1 and K − 1.</param>
    /// <param name="merged">[K, width] of that dtype, contiguous, written.</param>
    /// <param name="sizes">float32 [N], contiguous, or left out.</param>
    /// <param name="mergedSizes">float32 [K], contiguous, written; may be left out.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="workspace">
    /// On a device: uint8, one dimension of at least <see cref="WorkspaceBytes"/>, on an address divisible by 256, whose contents
    /// become undefined.
    /// </param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or devices do not fit, or as for spans. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static unsafe void Run(
        in TensorView tokens, in TensorView slots, in TensorView merged, TensorView sizes = default, TensorView mergedSizes = default,
        AuxBackend backend = AuxBackend.Auto, TensorView workspace = default, CudaStream? stream = null)
    {
        var (width, kept) = CheckRows(tokens, nameof(tokens), slots, merged, nameof(merged));
        TensorArguments.RequireIfWanted(sizes, nameof(sizes), DType.Float32, slots.Shape, tokens.Device, nameof(sizes));
        TensorArguments.RequireIfWanted(mergedSizes, nameof(mergedSizes), DType.Float32, [kept], tokens.Device, nameof(mergedSizes));
        backend = Support.Resolve(backend, tokens.Device);
        var on = CudaStream.HandleOn(stream, tokens.Device, nameof(stream));
        var groups = new MergeGroups
        {
            DType = tokens.DType,
            Source = (void*)tokens.Address,
            Destination = (void*)merged.Address,
            Slots = (int*)slots.Address,
            Tokens = slots.ElementCount,
            Kept = kept,
            Width = width,
            Sizes = (float*)sizes.Address,
            MergedSizes = (float*)mergedSizes.Address,
        };
        if (backend != AuxBackend.Cuda)
            groups.Check();
        TensorArguments.RequireDisjoint(
            NamedMemory.Read(nameof(tokens), (void*)tokens.Address, tokens.ByteCount),
            NamedMemory.Read(nameof(slots), (void*)slots.Address, slots.ByteCount),
            NamedMemory.Read(nameof(sizes), (void*)sizes.Address, sizes.ByteCount),
            NamedMemory.Written(nameof(merged), (void*)merged.Address, merged.ByteCount),
            NamedMemory.Written(nameof(mergedSizes), (void*)mergedSizes.Address, mergedSizes.ByteCount),
            NamedMemory.Written(nameof(workspace), (void*)workspace.Address, workspace.ByteCount));
        if (backend == AuxBackend.Cuda)
            RunOnCuda(groups, backward: false, workspace, tokens.Device, on);
        else if (backend == AuxBackend.Cpu)
            RunCpu(groups);
        else
            RunReference(groups);
        Support.Count(backend);
        TensorArguments.KeepAlive(tokens.Owner, slots.Owner, merged.Owner, sizes.Owner, mergedSizes.Owner, workspace.Owner, stream);
    }

    /// <summary>Spreads the gradient of merged rows: gradient[i] = mergedGradient[slot] · s_i / s′, and 0 where the slot is −1.</summary>
    /// <typeparam name="T">float, <see cref="BFloat16"/> or <see cref="Half"/>.</typeparam>
    /// <param name="mergedGradient">[K, width], row-major; K follows from its length.</param>
    /// <param name="width">At least 1.</param>
    /// <param name="slots">[N], as in the forward.</param>
    /// <param name="gradient">[N, width], all of it written. Sizes are taken for constants.</param>
    /// <param name="sizes">[N], or empty, as in the forward.</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">As for the forward. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The width is below 1. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Backward<T>(
        ReadOnlySpan<T> mergedGradient, int width, ReadOnlySpan<int> slots, Span<T> gradient, ReadOnlySpan<float> sizes = default,
        AuxBackend backend = AuxBackend.Auto) where T : unmanaged
    {
        TensorArguments.RequireAtLeastOne(nameof(width), width);
        if (mergedGradient.Length % width != 0)
        {
            throw new ArgumentException(
                $"mergedGradient: {mergedGradient.Length} elements are not rows of {width}", nameof(mergedGradient));
        }

        var (count, kept) = (slots.Length, mergedGradient.Length / width);
        TensorArguments.RequireLength(nameof(gradient), gradient.Length, count, width, nameof(gradient));
        TensorArguments.RequireEmptyOrLength(nameof(sizes), sizes.Length, count, nameof(sizes));
        var type = DTypes.Of<T>();
        fixed (T* from = mergedGradient, to = gradient)
        fixed (int* places = slots)
        fixed (float* s = sizes)
        {
            Backward(
                TensorView.FromPointer(from, type, [kept, width]), TensorView.FromPointer(places, DType.Int32, [count]),
                TensorView.FromPointer(to, type, [count, width]),
                sizes.IsEmpty ? default : TensorView.FromPointer(s, DType.Float32, [count]), backend);
        }
    }

    /// <summary>Spreads the gradient of merged rows, in memory of any framework.</summary>
    /// <param name="mergedGradient">float32, bfloat16 or float16 [K, width], contiguous.</param>
    /// <param name="slots">int32 [N], contiguous.</param>
    /// <param name="gradient">[N, width] of that dtype, contiguous, all of it written.</param>
    /// <param name="sizes">float32 [N], contiguous, or left out.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="workspace">
    /// On a device: uint8, one dimension of at least <see cref="WorkspaceBytes"/>, on an address divisible by 256, whose contents
    /// become undefined.
    /// </param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or devices do not fit, or as for spans. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static unsafe void Backward(
        in TensorView mergedGradient, in TensorView slots, in TensorView gradient, TensorView sizes = default,
        AuxBackend backend = AuxBackend.Auto, TensorView workspace = default, CudaStream? stream = null)
    {
        var (width, kept) = CheckRows(gradient, nameof(gradient), slots, mergedGradient, nameof(mergedGradient));
        TensorArguments.RequireIfWanted(sizes, nameof(sizes), DType.Float32, slots.Shape, gradient.Device, nameof(sizes));
        backend = Support.Resolve(backend, gradient.Device);
        var on = CudaStream.HandleOn(stream, gradient.Device, nameof(stream));
        var groups = new MergeGroups
        {
            DType = gradient.DType,
            Source = (void*)mergedGradient.Address,
            Destination = (void*)gradient.Address,
            Slots = (int*)slots.Address,
            Tokens = slots.ElementCount,
            Kept = kept,
            Width = width,
            Sizes = (float*)sizes.Address,
            MergedSizes = null,
        };
        if (backend != AuxBackend.Cuda)
            groups.Check();
        TensorArguments.RequireDisjoint(
            NamedMemory.Read(nameof(mergedGradient), (void*)mergedGradient.Address, mergedGradient.ByteCount),
            NamedMemory.Read(nameof(slots), (void*)slots.Address, slots.ByteCount),
            NamedMemory.Read(nameof(sizes), (void*)sizes.Address, sizes.ByteCount),
            NamedMemory.Written(nameof(gradient), (void*)gradient.Address, gradient.ByteCount),
            NamedMemory.Written(nameof(workspace), (void*)workspace.Address, workspace.ByteCount));
        if (backend == AuxBackend.Cuda)
            RunOnCuda(groups, backward: true, workspace, gradient.Device, on);
        else if (backend == AuxBackend.Cpu)
            RunBackwardCpu(groups);
        else
            RunBackwardReference(groups);
        Support.Count(backend);
        TensorArguments.KeepAlive(mergedGradient.Owner, slots.Owner, gradient.Owner, sizes.Owner, workspace.Owner, stream);
    }

    private static (int Width, int Kept) CheckRows(
        in TensorView all, string allName, in TensorView slots, in TensorView few, string fewName)
    {
        if (all.Shape.Length != 2 || few.Shape.Length != 2)
            throw new ArgumentException($"{allName}: {all}, {fewName}: {few}; both are of two dimensions", allName);
        TensorArguments.Require(all, allName, Types, all.Shape, all.Device, allName);
        TensorArguments.RequireAtLeastOne("width", all.Shape[1]);
        TensorArguments.Require(few, fewName, [all.DType], [few.Shape[0], all.Shape[1]], all.Device, fewName);
        TensorArguments.Require(slots, nameof(slots), [DType.Int32], [all.Shape[0]], all.Device, nameof(slots));
        return (checked((int)all.Shape[1]), checked((int)few.Shape[0]));
    }
}
