namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>Tests that compare clocks: nothing else runs beside them.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class TimedTests
{
    /// <summary>The collection's name.</summary>
    public const string Name = "timed";
}
