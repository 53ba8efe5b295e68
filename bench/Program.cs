return await AuxCore.Bench.Commands.CommandLine.RunAsync(args);
