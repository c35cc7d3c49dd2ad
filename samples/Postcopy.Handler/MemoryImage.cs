using Microsoft.Win32.SafeHandles;

namespace Postcopy.Handler;

/// <summary>A raw memory image in a file; read without allocating, by any number of threads.</summary>
internal sealed class MemoryImage : IDisposable
{
    private readonly SafeFileHandle _file;
    private readonly string _path;

    internal MemoryImage(string path)
    {
        _path = path;
        _file = File.OpenHandle(path, options: FileOptions.RandomAccess);
        Length = RandomAccess.GetLength(_file);
    }

    internal long Length { get; }

    /// <summary>Reads all of it; a short read is an error and never zeros (hazard H34).</summary>
    /// <exception cref="InvalidDataException">The image ends before: it was cut off since it was opened.</exception>
    internal void Read(long offset, Span<byte> into)
    {
        for (int done = 0; done < into.Length;)
        {
            int read = RandomAccess.Read(_file, into[done..], offset + done);
            if (read == 0)
            {
                throw new InvalidDataException($"The image '{_path}' ends at offset {offset + done}; it had {Length} bytes when it was opened.");
            }

            done += read;
        }
    }

    public void Dispose() => _file.Dispose();
}
