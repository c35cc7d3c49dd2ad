using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>
/// A background thread inside one native call that may block: a touch of a missing page, a madvise that waits for its
/// event to be read. The call is an ordinary P/Invoke, so a thread that waits in it does not stop a collection.
/// </summary>
internal sealed class FaultingThread
{
    private readonly ManualResetEventSlim _started = new();
    private readonly ManualResetEventSlim _done = new();
    private readonly Thread _thread;
    private long _result;

    private FaultingThread(Func<long> nativeCall)
    {
        _thread = new Thread(() =>
        {
            ThreadId = (uint)Libc.gettid();
            _started.Set();
            Volatile.Write(ref _result, nativeCall());
            _done.Set();
        })
        {
            IsBackground = true,
            Name = "test fault",
        };
    }

    /// <summary>The kernel's id of the thread, as it stands in fault messages.</summary>
    internal uint ThreadId { get; private set; }

    /// <summary>True once the native call is back.</summary>
    internal bool IsDone => _done.IsSet;

    /// <summary>Runs any native call that may block on a userfaultfd.</summary>
    internal static FaultingThread Start(Func<long> nativeCall)
    {
        FaultingThread t = new(nativeCall);
        t._thread.UnsafeStart();
        t._started.Wait();
        return t;
    }

    /// <summary>Reads one byte at the address; <see cref="Result"/> is the byte.</summary>
    internal static FaultingThread Read(nuint address) => Start(() => ReadByte(address));

    /// <summary>Writes one byte at the address.</summary>
    internal static FaultingThread Write(nuint address, byte value) => Start(() =>
    {
        _ = Libc.memset(address, value, 1);
        return value;
    });

    /// <summary>One byte through memcpy; blocks while the page is missing.</summary>
    internal static unsafe byte ReadByte(nuint address)
    {
        byte value;
        _ = Libc.memcpy((nuint)(&value), address, 1);
        return value;
    }

    /// <summary>What the call returned; fails the test when it does not come back in time.</summary>
    internal long Result
    {
        get
        {
            Assert.True(_done.Wait(Deadline.Default), "The thread still waits for its page.");
            return Volatile.Read(ref _result);
        }
    }

    internal bool Wait(TimeSpan limit) => _done.Wait(limit);
}
