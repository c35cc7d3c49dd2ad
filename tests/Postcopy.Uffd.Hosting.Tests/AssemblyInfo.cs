using Xunit.Sdk;
using Xunit.v3;

// Meters and activity sources belong to the process: a listener of one test hears the destinations of all.
[assembly: Parallelization(Mode = ParallelMode.None)]
