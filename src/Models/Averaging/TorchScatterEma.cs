using AuxCore.Interop;
using AuxCore.Kernels;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary><see cref="ScatterEma"/> on TorchSharp's tensors.</summary>
public static class TorchScatterEma
{
    extension(ScatterEma)
    {
        /// <summary>
        /// history[index[j]] ← β · history[index[j]] + (1 − β) · value[j], for j in order: averages of, say, each sample's loss.
        /// </summary>
        /// <param name="history">float32 [n] on the CPU, contiguous, not part of a graph; updated in place.</param>
        /// <param name="index">int64 or int32 [m] on the CPU, contiguous; numbers within [0, n), repetitions are allowed.</param>
        /// <param name="value">float32 [m] on the CPU, contiguous; must not overlap the history. Its values count, not its graph.</param>
        /// <param name="decay">β, within [0, 1].</param>
        /// <param name="nan">What NaN means.</param>
        /// <param name="backend">Where to run; Auto takes what fits the tensors' memory.</param>
        /// <remarks>Writes memory directly and does not raise autograd's version counter.</remarks>
        /// <exception cref="ArgumentException">
        /// Ranks, lengths, dtypes or devices do not fit, a tensor is not contiguous, tensors overlap, or the history requires grad.
        /// Nothing was written.
        /// </exception>
        /// <exception cref="ArgumentOutOfRangeException">
        /// An index is outside the history, the decay is NaN or outside [0, 1], or the policy is none. Nothing was written.
        /// </exception>
        /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
        /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
        public static void Update(
            Tensor history, Tensor index, Tensor value, double decay, NaNPolicy nan = NaNPolicy.Propagate,
            AuxBackend backend = AuxBackend.Auto)
        {
            var (histories, indices, values) =
                (history.ToTensorView(nameof(history)), index.ToTensorView(nameof(index)), value.ToTensorView(nameof(value)));
            if (history.requires_grad)
                throw new ArgumentException("history requires grad; pass a tensor that is not part of a graph", nameof(history));
            ScatterEma.Update(histories, indices, values, decay, nan, backend);
        }
    }
}
