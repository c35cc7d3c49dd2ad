using Postcopy.Destination;

namespace LazySnapshot;

/// <summary>The sample without arguments: one image, restored three times.</summary>
internal static class Demo
{
    private const long Bytes = 256L << 20;

    internal static async Task<int> RunAsync(CancellationToken cancellation)
    {
        DirectoryInfo folder = Directory.CreateTempSubdirectory("lazy-snapshot-");
        try
        {
            string image = Path.Combine(folder.FullName, "image"), record = Path.Combine(folder.FullName, "working-set");
            Console.WriteLine($"an image of {Quantity.Bytes(Bytes)} in {image}");
            Image.Capture(image, Bytes, seed: 1);

            // The guest works a little between two touches, as guests do: there is something to be ahead of.
            RestoreOptions plain = new() { Check = true, Readahead = 4096, TouchPercent = 10, Pace = TimeSpan.FromMicroseconds(50) };
            int exit = await RunAsync("page by page, recording the working set", image, plain with { Record = record, Fill = false }, cancellation);
            exit |= await RunAsync("with 64 KiB of readahead", image, plain with { Readahead = 64 << 10, Fill = false }, cancellation);
            return exit | await RunAsync("replaying the working set, and the rest in the background", image, plain with { Replay = record }, cancellation);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static async Task<int> RunAsync(string title, string image, RestoreOptions options, CancellationToken cancellation)
    {
        Console.WriteLine($"\n{title}:");
        await using FilePageStore store = FilePageStore.Open(image);
        await using Restore restore = new(store, options, Console.Error);
        RestoreReport report = await restore.RunAsync(cancellation);
        report.Write(Console.Out);
        return report.WrongTouches == 0 ? 0 : 1;
    }
}
