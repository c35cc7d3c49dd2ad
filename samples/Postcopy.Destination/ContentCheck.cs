using Postcopy.Uffd;

namespace Postcopy.Destination;

/// <summary>Reads the finished guest: every page against the seed, and the hash of every block.</summary>
internal static class ContentCheck
{
    private const int ChunkBytes = 1 << 20;

    /// <summary>Compares every page with what the seed says.</summary>
    /// <returns>Wrong pages, and the first of them for the message.</returns>
    internal static (long Checked, long Wrong, string? First) Compare(IReadOnlyList<RamBlock> blocks, SeededContent content)
    {
        byte[] found = new byte[ChunkBytes];
        byte[] expected = new byte[ChunkBytes];
        long pages = 0;
        long wrong = 0;
        string? first = null;
        for (int b = 0; b < blocks.Count; b++)
        {
            for (long offset = 0; offset < blocks[b].UsedLength; offset += ChunkBytes)
            {
                int length = (int)Math.Min(ChunkBytes, blocks[b].UsedLength - offset);
                blocks[b].Read(offset, found.AsSpan(0, length));
                content.Fill(b, offset, expected.AsSpan(0, length));
                pages += length / SeededContent.PageBytes;
                if (found.AsSpan(0, length).SequenceEqual(expected.AsSpan(0, length)))
                {
                    continue;
                }

                for (int at = 0; at < length; at += SeededContent.PageBytes)
                {
                    if (!found.AsSpan(at, SeededContent.PageBytes).SequenceEqual(expected.AsSpan(at, SeededContent.PageBytes)))
                    {
                        wrong++;
                        first ??= $"offset 0x{offset + at:x} of RAM block '{blocks[b].Name}'";
                    }
                }
            }
        }

        return (pages, wrong, first);
    }

    /// <summary>The lines of the hash file: <c>SHA256  block-name</c>.</summary>
    internal static IEnumerable<string> HashLines(IReadOnlyList<RamBlock> blocks) =>
        blocks.Select(b => $"{Convert.ToHexStringLower(b.ComputeSha256())}  {b.Name}");
}
