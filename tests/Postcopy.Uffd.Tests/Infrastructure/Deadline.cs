using System.Diagnostics;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>Waits for something that raises no event, in bounded steps and with an end.</summary>
internal static class Deadline
{
    internal static readonly TimeSpan Default = TimeSpan.FromSeconds(15);

    /// <summary>Waits for the condition; fails the test when it does not come true in time.</summary>
    internal static void Until(Func<bool> condition, string what) =>
        Assert.True(Reached(condition, Default), $"Not within {Default}: {what}.");

    /// <summary>Waits for the condition; false when it does not come true in time.</summary>
    internal static bool Reached(Func<bool> condition, TimeSpan limit)
    {
        long start = Stopwatch.GetTimestamp();
        while (!condition())
        {
            if (Stopwatch.GetElapsedTime(start) > limit)
            {
                return false;
            }

            Libc.Pause(50_000);
        }

        return true;
    }
}
