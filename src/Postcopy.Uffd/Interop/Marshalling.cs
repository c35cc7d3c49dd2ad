// The generated imports need no marshalling by the runtime; those of the netstandard2.0 asset do.
#if NET
[assembly: System.Runtime.CompilerServices.DisableRuntimeMarshalling]
#endif
