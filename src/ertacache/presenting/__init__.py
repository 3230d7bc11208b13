"""What people look at: tables for the terminal, plots, pictures and films, HTML reports, and a policy's model card."""
