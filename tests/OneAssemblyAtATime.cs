using System.Diagnostics;

[assembly: AssemblyFixture(typeof(Postcopy.Testing.OneAssemblyAtATime))]

namespace Postcopy.Testing;

/// <summary>
/// 'dotnet test' starts all test assemblies at once; on a small machine their guests, migrations and clocks would disturb
/// each other. Each waits here for its turn: a lock file that the kernel releases with its holder.
/// </summary>
public sealed class OneAssemblyAtATime : IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(25);

    private readonly FileStream _turn;

    /// <summary>Waits for the turn; the tests' own time limits start after it.</summary>
    public OneAssemblyAtATime()
    {
        string path = Path.Combine(Path.GetTempPath(), $"postcopy-uffd-tests-{Environment.UserName}.lock");
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            try
            {
                _turn = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
                return;
            }
            catch (IOException) when (Stopwatch.GetElapsedTime(start) < s_patience)
            {
                Thread.Sleep(100);
            }
        }
    }

    /// <summary>Lets the next assembly in.</summary>
    public void Dispose() => _turn.Dispose();
}
