"""History in Azure Blob Storage as Parquet, and its way back."""
