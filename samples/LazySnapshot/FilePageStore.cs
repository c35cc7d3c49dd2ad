using Microsoft.Win32.SafeHandles;
using Postcopy.Destination;

namespace LazySnapshot;

/// <summary>A raw memory image in a local file.</summary>
internal sealed class FilePageStore : IPageStore
{
    private readonly SafeFileHandle _file;
    private readonly string _path;

    private FilePageStore(SafeFileHandle file, string path)
    {
        _file = file;
        _path = path;
        Length = RandomAccess.GetLength(file);
    }

    public long Length { get; }

    internal static FilePageStore Open(string path)
    {
        SafeFileHandle file;
        try
        {
            file = File.OpenHandle(path, options: FileOptions.RandomAccess);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new PageStoreException($"The image '{path}' cannot be opened: {e.Message}", e);
        }

        FilePageStore store = new(file, path);
        if (store.Length == 0 || store.Length % SeededContent.PageBytes != 0)
        {
            file.Dispose();
            throw new PageStoreException($"The image '{path}' has {store.Length} bytes; a memory image is made of whole pages of 4096 bytes.");
        }

        return store;
    }

    public ValueTask ReadAsync(long offset, Memory<byte> into)
    {
        // Synchronous: the page cache answers faster than a thread could be changed.
        for (int done = 0; done < into.Length;)
        {
            int read;
            try
            {
                read = RandomAccess.Read(_file, into.Span[done..], offset + done);
            }
            catch (IOException e)
            {
                throw new PageStoreException($"The image '{_path}' cannot be read at offset {offset + done}: {e.Message}", e);
            }

            if (read == 0)
            {
                throw new PageStoreException($"The image '{_path}' ends at offset {offset + done}; it had {Length} bytes when it was opened.");
            }

            done += read;
        }

        return ValueTask.CompletedTask;
    }

    public ValueTask DisposeAsync()
    {
        _file.Dispose();
        return ValueTask.CompletedTask;
    }
}
