using System.Diagnostics;
using System.Globalization;
using Postcopy.Uffd.Benchmarks.Interop;

namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>Our destination (published as a native program), or the C baseline: both say the same lines.</summary>
internal sealed class LineDestination : IDestinationProcess
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);

    private readonly Process _process;
    private readonly Dictionary<string, double> _figures = [];

    private LineDestination(string program, IEnumerable<string> arguments)
    {
        ProcessStartInfo start = new(program, arguments) { RedirectStandardInput = true, RedirectStandardOutput = true };
        start.Environment[Compiler.LabVariable] = Compiler.Lab;
        _process = Process.Start(start)!;
        Uri = $"tcp:127.0.0.1:{Line("listening")}";
    }

    public string Uri { get; }

    public int ProcessId => _process.Id;

    public ulong[] Stalls { get; private set; } = [];

    public IReadOnlyDictionary<string, double> Figures => _figures;

    internal static LineDestination Ours(params string[] arguments) =>
        NativeDestination.IsUsed ? new(NativeDestination.Program, [ReceiveCommand.Name, .. arguments]) : new(Environment.ProcessPath!, [.. Entry, ReceiveCommand.Name, .. arguments]);

    internal static LineDestination Baseline(TouchFile touches) =>
        new(Compiler.Program("destination", "destination.c", "wire.c", "touch.c"), [touches.Path, touches.Count.ToString(CultureInfo.InvariantCulture)]);

    public void WaitForCompletion() => _ = Line("complete");

    public void Dispose()
    {
        _process.StandardInput.Close();
        if (!_process.WaitForExit(s_patience))
        {
            _process.Kill();
        }

        _process.Dispose();
    }

    /// <summary>Started by "dotnet", it is the second argument that names this program.</summary>
    private static string[] Entry => Path.GetFileNameWithoutExtension(Environment.ProcessPath) == "dotnet" ? [typeof(LineDestination).Assembly.Location] : [];

    private string Line(string wanted)
    {
        while (true)
        {
            Task<string?> reading = _process.StandardOutput.ReadLineAsync();
            string line = reading.Wait(s_patience) ? reading.Result ?? throw new LabException("The destination ended.") : throw new LabException($"The destination does not say '{wanted}'.");
            string[] words = line.Split(' ');
            switch (words[0])
            {
                case "stalls":
                    Stalls = [.. words.Skip(1).Select(w => ulong.Parse(w, CultureInfo.InvariantCulture))];
                    break;
                case "failed":
                    throw new LabException($"The destination {line}");
                default:
                    if (words[0] == wanted)
                    {
                        return line[wanted.Length..].Trim();
                    }

                    _figures[words[0]] = double.Parse(words[1], CultureInfo.InvariantCulture);
                    break;
            }
        }
    }
}
