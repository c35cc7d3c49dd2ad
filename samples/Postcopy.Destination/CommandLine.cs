using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using Postcopy.Uffd;

namespace Postcopy.Destination;

/// <summary>The command line: what there is, what is allowed, and what it means.</summary>
internal sealed class CommandLine
{
    internal const int UsageError = 2;

    private const int MostVcpus = 64;
    private const long MostMemory = 1L << 40;

    // Slower is a slip of the unit: a page would take longer than anybody waits.
    private const long LeastBandwidth = 64 << 10;

    private readonly Option<int> _vcpus = Number("--vcpus", "N", 2, 0, MostVcpus, "Threads that touch guest memory in a random order while pages stream in; 0 for none");
    private readonly Option<long> _memory = Parsed("--memory", "SIZE", "256M", "Memory of the embedded source's guest",
        $"a size from 1M to {MostMemory >> 40}T, a multiple of the page size, such as 256M or 1G",
        (string text, out long bytes) => Quantity.TryParse(text, out bytes) && bytes is >= 1 << 20 and <= MostMemory);

    private readonly Option<string> _pageSize = Choice("--page-size", "4k", "Page size of the guest's memory; 2m needs --memory-kind hugetlb", "4k", "2m");
    private readonly Option<string> _memoryKind = Choice("--memory-kind", "anonymous", "What backs the guest's memory", "anonymous", "memfd", "hugetlb");
    private readonly Option<long> _seed = Parsed("--seed", "N", "1", "Seed of the content and of the order of touches", "a whole number",
        static (string text, out long value) => long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out value));

    private readonly Option<long> _bandwidth = Parsed("--bandwidth", "RATE", "20M", "Rate of the embedded source's background stream; 0 is without limit",
        $"bytes a second from {LeastBandwidth >> 10}K up, such as 50MB/s or 20M, or 0",
        static (string text, out long rate) =>
            Quantity.TryParse(text.EndsWith("/s", StringComparison.OrdinalIgnoreCase) ? text[..^2] : text, out rate) && rate is 0 or >= LeastBandwidth);

    private readonly Option<string> _report = Choice("--report", "text", "Form of the report: of the blocktime for people, as query-migrate, or as the text of info migrate", "text", "json", "hmp");
    private readonly Option<string?> _reportFile = OutputFile("--report-file", "Write the report there instead of to standard output");
    private readonly Option<string?> _hashFile = OutputFile("--hash-file", "Write one line 'SHA256  block-name' per RAM block there");
    private readonly Option<string?> _timeline = new("--timeline")
    {
        HelpName = "PATH",
        Description = "Draw the migration there: PATH.svg or .html is a picture, PATH.json a trace for chrome://tracing and ui.perfetto.dev",
        CustomParser = ParseTimeline,
    };

    private readonly Option<Endpoint?> _listen = new("--listen")
    {
        HelpName = "tcp:HOST:PORT|unix:PATH",
        Description = "Wait for an outside source there instead of starting the embedded one",
        CustomParser = ParseEndpoint,
    };

    private readonly Option<int> _timeout = Number("--timeout", "SECONDS", 300, 1, 86_400, "Give up after that long, and say what is missing");
    private readonly Option<bool> _preempt = new("--preempt") { Description = "Requested pages come on a channel of their own (postcopy-preempt): the embedded source opens one; with --listen, the loss of the outside source's counts as a lost connection" };
    private readonly Option<string?> _tlsCert = File("--tls-cert", "Certificate of this destination, PEM; needs --tls-key and --listen");
    private readonly Option<string?> _tlsKey = File("--tls-key", "Its private key, PEM");
    private readonly Option<string?> _tlsCa = File("--tls-ca", "Only sources whose certificate this authority signed may connect, PEM");
    private readonly Option<string?> _packageFile = OutputFile("--package-file", "Write the source's device package there");
    private readonly Option<int> _recoverTimeout = Number("--recover-timeout", "SECONDS", 0, 0, 86_400, "Wait that long for a new connection after one was lost; 0 gives up at once");
    private readonly Option<bool> _gcPressure = new("--gc-pressure") { Description = "Let a thread allocate and collect garbage without pause meanwhile" };

    private delegate bool Parser<T>(string text, out T value);

    /// <summary>The root command; <paramref name="run"/> is called with valid options.</summary>
    internal RootCommand Build(Func<DestinationOptions, CancellationToken, Task<int>> run)
    {
        RootCommand root = new(
            "Receives a virtual machine's memory by postcopy: touched pages are fetched on demand while the rest streams in. " +
            "Without --listen it runs a complete migration from an embedded source in a second process and checks every page.")
        {
            _vcpus, _memory, _pageSize, _memoryKind, _seed, _bandwidth, _report, _reportFile, _hashFile, _timeline, _listen, _timeout, _preempt,
            _tlsCert, _tlsKey, _tlsCa, _packageFile, _recoverTimeout, _gcPressure,
        };
        root.SetAction((parsed, cancellation) =>
        {
            if (Contradiction(parsed) is not { } contradiction)
            {
                return run(Options(parsed), cancellation);
            }

            Console.Error.WriteLine(contradiction);
            return Task.FromResult(UsageError);
        });
        return root;
    }

    /// <summary>What no option alone can tell: null when the options fit together.</summary>
    private string? Contradiction(ParseResult parsed)
    {
        string kind = parsed.GetValue(_memoryKind)!;
        string page = parsed.GetValue(_pageSize)!;
        if (page == "2m" && kind != "hugetlb")
        {
            return $"--page-size: '2m' is not allowed with --memory-kind {kind}; use --memory-kind hugetlb, or --page-size 4k.";
        }

        if (page == "4k" && kind == "hugetlb" && parsed.GetResult(_pageSize) is { Implicit: false })
        {
            return "--page-size: '4k' is not allowed with --memory-kind hugetlb; use --page-size 2m, or another memory kind.";
        }

        if (TlsContradiction(parsed) is { } tls)
        {
            return tls;
        }

        long memory = Value(parsed, _memory, new DestinationOptions().MemoryBytes);
        long pageBytes = kind == "hugetlb" ? PageSize.TwoMiB.Bytes : PageSize.Host.Bytes;
        return memory % pageBytes == 0
            ? null
            : $"--memory: {memory} bytes are not allowed; give a multiple of the page size ({pageBytes} bytes).";
    }

    private string? TlsContradiction(ParseResult parsed)
    {
        bool certificate = parsed.GetValue(_tlsCert) is not null;
        if (certificate != parsed.GetValue(_tlsKey) is not null || (!certificate && parsed.GetValue(_tlsCa) is not null))
        {
            return "--tls-cert and --tls-key are given together, and --tls-ca with them.";
        }

        return certificate && parsed.GetValue(_listen) is null
            ? "--tls-cert: the embedded source speaks no TLS; give --listen for an outside source."
            : null;
    }

    private DestinationOptions Options(ParseResult parsed)
    {
        DestinationOptions defaults = new();
        GuestMemoryKind kind = Enum.Parse<GuestMemoryKind>(parsed.GetValue(_memoryKind)!, ignoreCase: true);
        return new DestinationOptions
        {
            Vcpus = parsed.GetValue(_vcpus),
            MemoryBytes = Value(parsed, _memory, defaults.MemoryBytes),
            PageSize = kind == GuestMemoryKind.Hugetlb ? PageSize.TwoMiB : PageSize.Host,
            MemoryKind = kind,
            Seed = Value(parsed, _seed, defaults.Seed),
            Bandwidth = Value(parsed, _bandwidth, defaults.Bandwidth),
            Report = parsed.GetValue(_report)!,
            ReportFile = parsed.GetValue(_reportFile),
            HashFile = parsed.GetValue(_hashFile),
            TimelineFile = parsed.GetValue(_timeline),
            Listen = parsed.GetValue(_listen),
            Timeout = TimeSpan.FromSeconds(parsed.GetValue(_timeout)),
            Preempt = parsed.GetValue(_preempt),
            Tls = parsed.GetValue(_tlsCert) is { } certificate ? new TlsFiles(certificate, parsed.GetValue(_tlsKey)!, parsed.GetValue(_tlsCa)) : null,
            PackageFile = parsed.GetValue(_packageFile),
            RecoverTimeout = TimeSpan.FromSeconds(parsed.GetValue(_recoverTimeout)),
            GcPressure = parsed.GetValue(_gcPressure),
        };
    }

    /// <summary>The option's value, or its default.</summary>
    private static long Value(ParseResult parsed, Option<long> option, long standard) =>
        parsed.GetResult(option) is null ? standard : parsed.GetValue(option);

    private static Option<int> Number(string name, string help, int standard, int least, int most, string description) => new(name)
    {
        HelpName = help,
        Description = $"{description} ({least} to {most})",
        DefaultValueFactory = _ => standard,
        CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            if (int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int value) && value >= least && value <= most)
            {
                return value;
            }

            result.AddError($"{name}: '{text}' is not allowed; give a whole number from {least} to {most}.");
            return standard;
        },
    };

    private static Option<T> Parsed<T>(string name, string help, string standard, string description, string allowed, Parser<T> parser) => new(name)
    {
        HelpName = help,
        Description = description + $" [default: {standard}]",
        // The default stays text: as a number of bytes nobody would read it in the help.
        CustomParser = result =>
        {
            string text = result.Tokens.Count == 0 ? standard : result.Tokens[0].Value;
            if (!parser(text, out T value))
            {
                result.AddError($"{name}: '{text}' is not allowed; give {allowed}.");
            }

            return value;
        },
    };

    private static Option<string> Choice(string name, string standard, string description, params string[] allowed) => new(name)
    {
        HelpName = string.Join('|', allowed),
        Description = description,
        DefaultValueFactory = _ => standard,
        CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            if (!allowed.Contains(text, StringComparer.Ordinal))
            {
                result.AddError($"{name}: '{text}' is not allowed; give {string.Join(" or ", allowed)}.");
            }

            return text;
        },
    };

    private static Option<string?> File(string name, string description) => new(name)
    {
        HelpName = "PATH",
        Description = description,
        CustomParser = result =>
        {
            string path = result.Tokens[0].Value;
            if (!System.IO.File.Exists(path))
            {
                result.AddError($"{name}: '{path}' is not allowed; give a PEM file that exists.");
            }

            return path;
        },
    };

    /// <summary>A file that is written at the end: that its folder is missing is worth knowing at the beginning.</summary>
    private static Option<string?> OutputFile(string name, string description) => new(name)
    {
        HelpName = "PATH",
        Description = description,
        CustomParser = result => WritablePath(name, result),
    };

    private static string WritablePath(string name, ArgumentResult result)
    {
        string path = result.Tokens[0].Value;
        if (path.Length == 0 || Directory.Exists(path) || !Directory.Exists(Path.GetDirectoryName(Path.GetFullPath(path))))
        {
            result.AddError($"{name}: '{path}' is not allowed; give a file in a folder that exists.");
        }

        return path;
    }

    private static string? ParseTimeline(ArgumentResult result)
    {
        string path = WritablePath("--timeline", result);
        if (!TimelineFile.IsKnown(path))
        {
            result.AddError($"--timeline: '{path}' is not allowed; give a file that ends in {TimelineFile.Endings}.");
        }

        return path;
    }

    private static Endpoint? ParseEndpoint(ArgumentResult result)
    {
        string text = result.Tokens[0].Value;
        if (!Endpoint.TryParse(text, out Endpoint? endpoint, out string allowed))
        {
            result.AddError($"--listen: '{text}' is not allowed; give {allowed}.");
        }

        return endpoint;
    }
}
