namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>A made-up <c>/proc</c> and <c>/sys</c> in a temporary directory.</summary>
internal sealed class HostFixture : IDisposable
{
    private readonly DirectoryInfo _root = Directory.CreateTempSubdirectory("postcopy-host-");

    internal HostFiles Files => new(_root.FullName);

    internal HostFixture With(string path, string content)
    {
        string file = _root.FullName + path;
        _ = Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        File.WriteAllText(file, content + "\n");
        return this;
    }

    public void Dispose() => _root.Delete(recursive: true);
}
