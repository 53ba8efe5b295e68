namespace AuxCore.Models;

/// <summary>How other libraries name the tensors of one averaged model.</summary>
public enum EmaLayout
{
    /// <summary>
    /// timm's <c>ModelEmaV2</c> and <c>ModelEmaV3</c>: the model's own names, as its checkpoints have them under <c>state_dict_ema</c>;
    /// with <c>module.</c> before each where the wrapper itself was saved, which is accepted and not written.
    /// </summary>
    Timm,

    /// <summary>
    /// PyTorch's <c>torch.optim.swa_utils.AveragedModel</c>: <c>module.</c> before each name, and the scalar <c>n_averaged</c>.
    /// </summary>
    SwaUtils,
}
