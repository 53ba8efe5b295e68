namespace AuxCore.Bench.Data;

/// <summary>
/// A data set is not here and could not be fetched: no network, no apt-get, or the pinned version is no longer served.
/// The message says what happened and what to do. Data that is here but wrong is an <see cref="InvalidDataException"/> instead.
/// </summary>
public sealed class DataUnavailableException(string message, Exception? innerException = null) : Exception(message, innerException);
