using TorchSharp.Modules;

namespace AuxCore.Models;

/// <content>The hyper-parameters of a group of parameters, in the form of TorchSharp's optimisers.</content>
public sealed partial class AdamW
{
    /// <summary>The hyper-parameters of one group; what is null becomes the optimiser's default when the group is added.</summary>
    public sealed class Options : OptimizerOptions
    {
        /// <inheritdoc cref="Kernels.AdamWSettings.Beta1"/>
        public double? Beta1 { get; set; }

        /// <inheritdoc cref="Kernels.AdamWSettings.Beta2"/>
        public double? Beta2 { get; set; }

        /// <inheritdoc cref="Kernels.AdamWSettings.Epsilon"/>
        public double? Epsilon { get; set; }

        /// <inheritdoc cref="Kernels.AdamWSettings.WeightDecay"/>
        public double? WeightDecay { get; set; }

        /// <inheritdoc cref="Kernels.AdamWSettings.Maximize"/>
        public bool? Maximize { get; set; }

        /// <inheritdoc/>
        public override void SaveStateDict(BinaryWriter writer)
        {
            base.SaveStateDict(writer);
            writer.Write(Beta1!.Value);
            writer.Write(Beta2!.Value);
            writer.Write(Epsilon!.Value);
            writer.Write(WeightDecay!.Value);
            writer.Write(Maximize!.Value);
        }

        /// <inheritdoc/>
        public override void LoadStateDict(BinaryReader reader)
        {
            base.LoadStateDict(reader);
            (Beta1, Beta2, Epsilon, WeightDecay) = (reader.ReadDouble(), reader.ReadDouble(), reader.ReadDouble(), reader.ReadDouble());
            Maximize = reader.ReadBoolean();
        }

        /// <inheritdoc/>
        /// <exception cref="ArgumentException">They are another optimiser's options.</exception>
        public override void LoadStateDict(OptimizerOptions source)
        {
            if (source is not Options options)
                throw new ArgumentException($"the options are of {source?.GetType()}, not of AuxCore's AdamW", nameof(source));
            base.LoadStateDict(source);
            (Beta1, Beta2, Epsilon, WeightDecay, Maximize) =
                (options.Beta1, options.Beta2, options.Epsilon, options.WeightDecay, options.Maximize);
        }

        internal Options WithDefaults(Options defaults)
        {
            LearningRate ??= defaults.LearningRate;
            Beta1 ??= defaults.Beta1;
            Beta2 ??= defaults.Beta2;
            Epsilon ??= defaults.Epsilon;
            WeightDecay ??= defaults.WeightDecay;
            Maximize ??= defaults.Maximize;
            return this;
        }
    }

    /// <summary>Parameters that share hyper-parameters. A learning-rate scheduler of TorchSharp changes them here.</summary>
    public sealed class ParamGroup : ParamGroup<Options>, TorchSharp.torch.optim.IBetas
    {
        /// <summary>Parameters with options.</summary>
        /// <param name="parameters">
        /// A module's <c>parameters()</c> itself rather than a list of them: then replaced parameters can be followed.
        /// </param>
        /// <param name="options">What is null in them, or without them all, becomes the optimiser's default.</param>
        public ParamGroup(IEnumerable<Parameter> parameters, Options? options = null)
            : base(parameters, options ?? new Options()) => ArgumentNullException.ThrowIfNull(parameters);

        /// <summary>Parameters with names, which messages and state files then use.</summary>
        /// <param name="parameters">A module's <c>named_parameters()</c>.</param>
        /// <param name="options">What is null in them, or without them all, becomes the optimiser's default.</param>
        public ParamGroup(IEnumerable<(string name, Parameter parameter)> parameters, Options? options = null)
            : base((parameters ?? throw new ArgumentNullException(nameof(parameters))).Select(pair => pair.parameter),
                options ?? new Options()) =>
            Names = parameters.Select(pair => pair.name);

        /// <summary>Parameters with hyper-parameters; what is null becomes the optimiser's default.</summary>
        /// <param name="parameters">A module's <c>parameters()</c>.</param>
        /// <param name="lr">The learning rate.</param>
        /// <param name="beta1">The decay of the first moment.</param>
        /// <param name="beta2">The decay of the second moment.</param>
        /// <param name="eps">Added to the root of the second moment.</param>
        /// <param name="weight_decay">The weight decay.</param>
        /// <param name="maximize">Whether to follow the gradient.</param>
        public ParamGroup(
            IEnumerable<Parameter> parameters, double? lr, double? beta1 = null, double? beta2 = null, double? eps = null,
            double? weight_decay = null, bool? maximize = null)
            : this(parameters, new Options
            {
                LearningRate = lr, Beta1 = beta1, Beta2 = beta2, Epsilon = eps, WeightDecay = weight_decay, Maximize = maximize,
            })
        {
        }

        /// <summary>β₁ and β₂, which a scheduler that cycles momentum changes.</summary>
        public (double, double) Betas
        {
            get => (Options.Beta1!.Value, Options.Beta2!.Value);
            set => (Options.Beta1, Options.Beta2) = value;
        }

        internal IEnumerable<string>? Names { get; }
    }
}
