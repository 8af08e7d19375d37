"""Programs that the type checker must take, and programs that it must refuse."""
