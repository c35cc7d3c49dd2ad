using Microsoft.Win32.SafeHandles;
using Postcopy.Destination;

namespace LazySnapshot;

/// <summary>Images to try things on: the memory of a guest that is a function of a seed.</summary>
internal static class Image
{
    /// <summary>Writes an image; pages of zeros stay holes.</summary>
    internal static void Capture(string path, long bytes, long seed)
    {
        SeededContent content = new(seed);
        using SafeFileHandle file = File.OpenHandle(path, FileMode.Create, FileAccess.Write);
        RandomAccess.SetLength(file, bytes);
        byte[] page = new byte[SeededContent.PageBytes];
        for (long offset = 0; offset < bytes; offset += page.Length)
        {
            if (!SeededContent.IsZero(content.Key(0, offset / page.Length)))
            {
                content.Fill(0, offset, page);
                RandomAccess.Write(file, page, offset);
            }
        }
    }
}
