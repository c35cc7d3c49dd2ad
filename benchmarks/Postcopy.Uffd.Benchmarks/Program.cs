using BenchmarkDotNet.Running;
using Postcopy.Uffd.Benchmarks;

// The latency lab's commands and the endurance run; everything else is BenchmarkDotNet's (nothing at all asks which to run).
return args is ["compare" or "growth" or "waiting" or "receive" or "soak" or "soak-worker", ..] or ["--help" or "-h" or "-?"]
    ? LabCommands.Build().Parse(args).Invoke()
    : RunBenchmarks(args);

static int RunBenchmarks(string[] args)
{
    _ = BenchmarkSwitcher.FromAssembly(typeof(Program).Assembly).Run(args);
    return 0;
}
