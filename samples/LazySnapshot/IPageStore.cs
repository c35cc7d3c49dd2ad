namespace LazySnapshot;

/// <summary>Where the pages of a snapshot are kept. Reads come from several threads at once.</summary>
internal interface IPageStore : IAsyncDisposable
{
    /// <summary>Bytes of the memory image; known once the store is open.</summary>
    long Length { get; }

    /// <summary>Reads a part of the image.</summary>
    /// <param name="offset">Bytes from its start, a multiple of 4096.</param>
    /// <param name="into">Whole pages of 4 KiB, inside the image.</param>
    /// <exception cref="PageStoreException">Not now; nothing of <paramref name="into"/> may be used.</exception>
    ValueTask ReadAsync(long offset, Memory<byte> into);
}
