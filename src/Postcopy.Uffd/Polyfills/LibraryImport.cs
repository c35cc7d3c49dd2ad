namespace System.Runtime.InteropServices;

/// <summary>Lets the import declarations compile unchanged; the bodies are in <c>Interop/NetStandard</c>.</summary>
[AttributeUsage(AttributeTargets.Method)]
[Microsoft.CodeAnalysis.Embedded]
internal sealed class LibraryImportAttribute(string libraryName) : Attribute
{
    public string LibraryName { get; } = libraryName;

    public string? EntryPoint { get; set; }

    public bool SetLastError { get; set; }

    public StringMarshalling StringMarshalling { get; set; }
}

/// <summary>The one kind of string that the imports use.</summary>
[Microsoft.CodeAnalysis.Embedded]
internal enum StringMarshalling
{
    Utf8 = 1,
}
