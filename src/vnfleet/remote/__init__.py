"""Work sent to machines that may vanish: transfers, sealed parcels, leases and the mailbox of jobs.

A remote is a plain folder (Google Drive, WebDAV, a mounted disk). A job is data, never code; nothing is unpickled.
"""
