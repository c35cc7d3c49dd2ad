using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Breaking.Tests;

/// <summary>A guest's memory that outlives the process which sends it: a file, one block after the other.</summary>
internal sealed class FileMemory : IMigrationSourceMemory, IDisposable
{
    private readonly SafeFileHandle _file;
    private readonly Dictionary<string, long> _starts = [];

    internal FileMemory(string path, IReadOnlyList<SourceRamBlock> blocks)
    {
        _file = File.OpenHandle(path);
        Blocks = blocks;
        long at = 0;
        foreach (SourceRamBlock block in blocks)
        {
            _starts[block.Name] = at;
            at += block.Length;
        }
    }

    public IReadOnlyList<SourceRamBlock> Blocks { get; }

    internal static void Write(string path, TestPages content)
    {
        using FileStream file = File.Create(path);
        byte[] page = new byte[TestPages.Bytes];
        foreach (SourceRamBlock block in content.Blocks)
        {
            for (long offset = 0; offset < block.Length; offset += page.Length)
            {
                content.ReadPages(block, offset, page);
                file.Write(page);
            }
        }
    }

    public void ReadPages(SourceRamBlock block, long offset, Span<byte> destination)
    {
        for (long at = _starts[block.Name] + offset; !destination.IsEmpty;)
        {
            int read = RandomAccess.Read(_file, destination, at);
            if (read == 0)
            {
                throw new EndOfStreamException($"The memory file ends at {at}.");
            }

            destination = destination[read..];
            at += read;
        }
    }

    public void Dispose() => _file.Dispose();
}
