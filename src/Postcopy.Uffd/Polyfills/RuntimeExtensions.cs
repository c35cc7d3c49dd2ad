using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Threading;
using Postcopy.Uffd.Interop;

namespace System;

/// <summary>Members of the runtime that <c>netstandard2.0</c> lacks and the Polyfill package does not bring.</summary>
[Microsoft.CodeAnalysis.Embedded]
internal static class RuntimeExtensions
{
    extension(Marshal)
    {
        internal static int GetLastPInvokeError() => Marshal.GetLastWin32Error();
    }

    extension(Thread thread)
    {
        /// <summary>Starts the thread without the caller's execution context.</summary>
        internal void UnsafeStart()
        {
            if (ExecutionContext.IsFlowSuppressed())
            {
                thread.Start();
                return;
            }

            using (ExecutionContext.SuppressFlow())
            {
                thread.Start();
            }
        }
    }

    extension(ref SpinWait spin)
    {
        /// <summary>One turn. A threshold of -1 (the only one used here) means: yield, but never sleep a millisecond.</summary>
        internal void SpinOnce(int sleep1Threshold)
        {
            if (sleep1Threshold < 0 && spin.NextSpinWillYield)
            {
                _ = Thread.Yield();
                return;
            }

            spin.SpinOnce();
        }
    }

    extension(FileInfo file)
    {
        internal unsafe string? LinkTarget
        {
            get
            {
                const int longest = 4096;
                byte* buffer = stackalloc byte[longest];
                nint length = Libc.readlink(file.FullName, buffer, longest);
                return length < 0 ? null : Encoding.UTF8.GetString(buffer, (int)length);
            }
        }
    }

    extension(IncrementalHash hash)
    {
        internal void AppendData(ReadOnlySpan<byte> data) => hash.AppendData(data.ToArray());
    }

    extension(string)
    {
        internal static string Create(IFormatProvider? provider, [InterpolatedStringHandlerArgument(nameof(provider))] ref DefaultInterpolatedStringHandler handler) =>
            handler.ToStringAndClear();
    }

    extension<T>(ReadOnlySpan<T> span)
    {
        internal bool Contains(T value, IEqualityComparer<T>? comparer = null)
        {
            comparer ??= EqualityComparer<T>.Default;
            foreach (T item in span)
            {
                if (comparer.Equals(item, value))
                {
                    return true;
                }
            }

            return false;
        }
    }
}
