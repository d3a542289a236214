"""The dashboard: a Streamlit app that watches, starts and steers searches. It reads run folders and no torch."""
