namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>A process that receives one migration from QEMU and stays afterwards, to be looked at.</summary>
internal interface IDestinationProcess : IDisposable
{
    /// <summary>Where the source connects.</summary>
    string Uri { get; }

    int ProcessId { get; }

    /// <summary>Waits until every page is there.</summary>
    void WaitForCompletion();

    /// <summary>How long each touch took, in the order of touches; empty where nobody touched.</summary>
    ulong[] Stalls { get; }

    /// <summary>What it says about itself.</summary>
    IReadOnlyDictionary<string, double> Figures { get; }
}
