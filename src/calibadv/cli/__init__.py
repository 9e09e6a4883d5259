"""The command line: parse, call, print. What a command does lives in the packages below; nobody imports this one."""
