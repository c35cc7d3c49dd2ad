using System.Runtime.InteropServices;

namespace Postcopy.Handler.Tests;

/// <summary>A folder with a memory image in which every page tells where it belongs, and room for a socket.</summary>
internal sealed class TestImage : IDisposable
{
    internal const int PageBytes = 4096;

    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("postcopy-handler-");

    internal TestImage(int pages)
    {
        Pages = pages;
        using FileStream file = File.Create(Image);
        byte[] page = new byte[PageBytes];
        for (int i = 0; i < pages; i++)
        {
            Fill(i, page);
            file.Write(page);
        }
    }

    internal int Pages { get; }

    internal string Image => Path.Combine(_directory.FullName, "image");

    internal string Socket => Path.Combine(_directory.FullName, "handler.sock");

    internal string Temporary(string name) => Path.Combine(_directory.FullName, name);

    /// <summary>Every seventh page is zero.</summary>
    internal static void Fill(long page, Span<byte> into)
    {
        Span<ulong> words = MemoryMarshal.Cast<byte, ulong>(into);
        if (page % 7 == 3)
        {
            words.Clear();
            return;
        }

        for (int i = 0; i < words.Length; i++)
        {
            words[i] = unchecked(((ulong)page + 1) * 0x9E3779B97F4A7C15UL) ^ (ulong)i;
        }
    }

    public void Dispose() => _directory.Delete(recursive: true);
}
