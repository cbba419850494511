"""What drives many runs: each file is one question that needs several of them. Imports no session; what makes a whole run is handed in."""
