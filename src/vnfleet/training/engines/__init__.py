"""Where units run: `local` is this process."""
