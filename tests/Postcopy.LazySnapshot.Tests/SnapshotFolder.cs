using System.Security.Cryptography;
using Postcopy.Destination.Tests;

namespace Postcopy.LazySnapshot.Tests;

/// <summary>A folder with an image in it, and the sample run on it as a user would.</summary>
internal sealed class SnapshotFolder : IDisposable
{
    private static readonly string s_program = Path.Combine(AppContext.BaseDirectory, "lazy-snapshot");
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("lazy-snapshot-tests-");

    internal string Image => Path.Combine(_folder.FullName, "image");

    internal string File(string name) => Path.Combine(_folder.FullName, name);

    internal async Task CaptureAsync(string size = "16M", string seed = "1") =>
        Assert.Equal(0, (await RunAsync("capture", Image, "--memory", size, "--seed", seed)).Exit);

    internal static SampleProcess Start(params string[] arguments) => SampleProcess.Start(s_program, arguments);

    internal static async Task<(int Exit, string Output, string Error)> RunAsync(params string[] arguments)
    {
        using SampleProcess sample = Start(arguments);
        int exit = await sample.ExitAsync(TimeSpan.FromSeconds(60));
        return (exit, sample.Output, sample.Error);
    }

    internal void AssertRestored(string hashFile)
    {
        using FileStream image = System.IO.File.OpenRead(Image);
        Assert.Equal($"{Convert.ToHexStringLower(SHA256.HashData(image))}  snapshot\n", System.IO.File.ReadAllText(File(hashFile)));
    }

    public void Dispose() => _folder.Delete(recursive: true);
}
