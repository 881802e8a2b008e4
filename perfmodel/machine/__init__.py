"""The tensor machine: programs that move and multiply tensor tiles; one program gives the numbers, the counts and the formulas."""
