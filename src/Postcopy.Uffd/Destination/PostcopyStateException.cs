namespace Postcopy.Uffd;

/// <summary>A step was asked for that the state does not allow. Nothing was changed.</summary>
public sealed class PostcopyStateException : InvalidOperationException
{
    internal PostcopyStateException(string operation, PostcopyState state, string allowed)
        : base($"{operation} is not possible in state {state}; it needs {allowed}.")
    {
        Operation = operation;
        State = state;
    }

    /// <summary>The step.</summary>
    public string Operation { get; }

    /// <summary>The state it met.</summary>
    public PostcopyState State { get; }
}
