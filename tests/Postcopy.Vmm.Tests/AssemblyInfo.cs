using Xunit.Sdk;
using Xunit.v3;

// Guests of different tests would take each other's two processors away and blur every figure.
[assembly: Parallelization(Mode = ParallelMode.None)]
